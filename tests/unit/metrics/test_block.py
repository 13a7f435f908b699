from __future__ import annotations

import gzip
import shutil
import subprocess
import zlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.metrics import exposition as exposition_module
from portspec.metrics.block import CachedBlock, Deflater
from portspec.metrics.exposition import MAX_AHEAD_AGE
from portspec.state import table as table_module
from tests.requirements import missing
from tests.unit.factories import MODEST, result, seen, snapshot, target
from tests.unit.metrics.scrape import HOST_FAMILIES, OPENMETRICS, TEXT, audited_zoo, body, exposition
from tests.unit.metrics.worlds import snapshots

if TYPE_CHECKING:
    from collections.abc import Collection

    from portspec.state.snapshot import Snapshot

BYTES = st.one_of(
    st.binary(max_size=200),
    st.builds(lambda piece, times: piece * times, st.binary(min_size=1, max_size=20), st.integers(1, 5000)),
)


def is_one_member(file: bytes, plain: bytes) -> bool:
    """Return whether a file is one gzip member of these bytes, with nothing behind it."""
    reader = zlib.decompressobj(31)
    return reader.decompress(file) == plain and reader.eof and not reader.unused_data


@MODEST
@given(data=st.data(), texts=st.lists(BYTES, min_size=1, max_size=6))
def test_blocks_make_gzip_files_in_any_order(data: st.DataObject, texts: list[bytes]) -> None:
    """File after file, of any of the blocks in any order and as often as you like, is one gzip member of their text."""
    blocks = [CachedBlock(text) for text in texts]
    maker = Deflater()
    for _ in range(3):
        chosen = data.draw(st.lists(st.sampled_from(blocks), max_size=8))
        plain = b"".join(block.text for block in chosen)
        file = b"".join(maker.deflate(chosen).file)
        assert gzip.decompress(file) == plain
        assert is_one_member(file, plain)


@MODEST
@given(texts=st.lists(BYTES, max_size=4), more=st.lists(BYTES, max_size=4))
def test_streams_add_up_to_one(texts: list[bytes], more: list[bytes]) -> None:
    """Two streams, whoever compressed them, make one gzip member of what both are of, and stay what they are."""
    first, second = (Deflater().deflate([CachedBlock(text) for text in some]) for some in (texts, more))
    assert is_one_member(b"".join((first + second).file), b"".join([*texts, *more]))
    assert is_one_member(b"".join(first.file), b"".join(texts))


@pytest.mark.parametrize("texts", [[], [b""], [b"", b""], [b"", b"a", b""]])
def test_empty_blocks_make_gzip_files(texts: list[bytes]) -> None:
    """Blocks without text, and no blocks at all, are no trouble, also where nothing was compressed before."""
    plain = b"".join(texts)
    assert is_one_member(b"".join(Deflater().deflate([CachedBlock(text) for text in texts]).file), plain)
    blocks = [CachedBlock(text) for text in (b"", *texts, b"")]
    assert is_one_member(b"".join(Deflater().deflate(blocks).file), plain)


def test_block_is_compressed_once() -> None:
    """A block keeps what it was compressed to: the next file has the very same piece."""
    maker = Deflater()
    block, other = CachedBlock(b"a" * 1000), CachedBlock(b"b" * 1000)
    first = maker.deflate([block]).pieces
    kept = block.deflated
    second = maker.deflate([other, block]).pieces
    assert block.deflated is kept
    assert any(piece is kept for piece in first)
    assert any(piece is kept for piece in second)


@pytest.mark.parametrize("accept", [TEXT, OPENMETRICS])
def test_system_reads_the_compressed_page(accept: str) -> None:
    """`gzip -dc` reads the page without a word of complaint, and it is the plain page."""
    program = shutil.which("gzip")
    if program is None:
        missing("gzip is not installed")
    page = exposition(audited_zoo()).write(accept, "gzip", HOST_FAMILIES)
    done = subprocess.run([program, "-dc"], input=body(page), capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == body(exposition(audited_zoo()).write(accept, "", HOST_FAMILIES))


@MODEST
@given(of=st.lists(snapshots(), min_size=1, max_size=3))
def test_compressed_page_is_the_plain_page(of: list[Snapshot]) -> None:
    """After any change the gzip page is one member of what the plain page is, whichever is asked for first."""
    current = [of[0]]
    one = exposition(of[0])
    one._snapshot = lambda: current[0]
    for current[0] in of:
        for accept in (TEXT, OPENMETRICS):
            compressed = body(one.write(accept, "gzip", HOST_FAMILIES))
            plain = body(one.write(accept, "", HOST_FAMILIES))
            assert gzip.decompress(compressed) == plain
            assert is_one_member(compressed, plain)


def test_pieces_of_unchanged_hosts_are_reused(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a change of one host nearly all pieces of the compressed page are the very objects of the page before."""
    monkeypatch.setattr(table_module, "_CHUNK", 128)
    every = [target(f"host{number}", expect=[22, 80]) for number in range(1000)]
    current = snapshot(*((of, [result(of, seen(is_open=[22, 80]))]) for of in every))
    one = exposition(current)
    one._snapshot = lambda: current
    before = {id(piece): piece for piece in one.write("", "gzip").pieces}
    current = current.after("host500", result(every[500], seen(is_open=[22])), probes_sent=0)
    after = one.write("", "gzip").pieces
    fresh = [piece for piece in after if id(piece) not in before]
    headings = body(one.write()).count(b"# TYPE port_")
    # Of the chunk of the host: port_open of the expected ports, port_deviation, port_out_of_spec,
    # port_last_change_timestamp_seconds. Beside these the exporter's own families, HELP and TYPE, and the sums.
    assert len(fresh) <= 4 + 1 + headings + 1
    assert len(after) - len(fresh) > 50


@pytest.mark.parametrize("accept", [TEXT, OPENMETRICS])
def test_compressed_page_of_many_hosts_is_that_which_was_written_ahead(
    accept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With many hosts, compressed pages have them as they were a moment ago, never long ago; others as they are."""
    monkeypatch.setattr(exposition_module, "MANY_HOSTS", 2)
    now = [0.0]
    every = [target(f"host{number}", expect=[22]) for number in range(2)]
    current = snapshot(*((of, [result(of, seen(is_open=[22]))]) for of in every))
    one = exposition(current)
    one._snapshot, one._clock = (lambda: current), (lambda: now[0])

    def is_missing(encoding: str, names: Collection[str] = ()) -> bool:
        page = body(one.write(accept, encoding, names))
        text = gzip.decompress(page) if encoding else page
        assert (b"portspec_hosts 2.0" in text) is not bool(names)
        assert text.endswith(b"# EOF\n") is (accept == OPENMETRICS)
        return b'port_out_of_spec{host="host1"} 1.0' in text

    one.write_ahead()
    current = current.after("host1", result(every[1], seen(is_open=[])), probes_sent=0)
    assert [is_missing("gzip"), is_missing(""), is_missing("gzip", ["port_out_of_spec"])] == [False, True, True]
    now[0] = MAX_AHEAD_AGE + 1
    assert is_missing("gzip")
    now[0] += 1
    assert is_missing("gzip")  # no page is older than one before
    one.write_ahead()
    assert is_missing("gzip")


def test_page_of_few_hosts_is_always_written_anew() -> None:
    """With few hosts a compressed page, too, has the hosts as they are."""
    every = [target(f"host{number}", expect=[22]) for number in range(2)]
    current = snapshot(*((of, [result(of, seen(is_open=[22]))]) for of in every))
    one = exposition(current)
    one._snapshot = lambda: current
    one.write_ahead()
    current = current.after("host1", result(every[1], seen(is_open=[])), probes_sent=0)
    assert b'port_out_of_spec{host="host1"} 1.0' in gzip.decompress(body(one.write("", "gzip")))


def test_hosts_are_written_only_for_those_who_ask_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever names metrics of the exporter alone does not wait for those of all hosts."""
    one = exposition(audited_zoo())
    rendered: list[object] = []
    write_hosts = one._write_hosts

    def note(at: float, snapshot: Snapshot) -> object:
        rendered.append(snapshot)
        return write_hosts(at, snapshot)

    monkeypatch.setattr(one, "_write_hosts", note)
    whole = body(one.write()).decode()
    names = sorted({line.split("{")[0].split(" ")[0] for line in whole.splitlines() if not line.startswith("#")})
    needed = set()
    for name in names:
        rendered.clear()
        lines = [line for line in body(one.write(names=[name])).decode().splitlines() if not line.startswith("#")]
        assert lines == [line for line in whole.splitlines() if line.startswith((f"{name} ", f"{name}{{"))] or (
            name.startswith(("process_", "python_"))  # they change all the time
        )
        if rendered:
            needed.add(name)
    assert {"port_open", "port_service_name_info", "portspec_series_dropped"} <= needed
    assert not {"portspec_hosts", "portspec_scan_rounds_total", "process_resident_memory_bytes"} & needed
    with one._turn:  # while all hosts are being written
        assert b"portspec_hosts " in body(one.write(names=["portspec_hosts"]))
