"""`portspec assets`: the files that come with portspec and are not code, for those who install a package.

The wheel holds them in portspec/assets, at the paths that they have in the repository. A clone has no such directory,
and its own files are taken.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING, Final

import portspec
from portspec.cli.output import count, write
from portspec.errors import PortspecError, UsageError, why
from portspec.files import require_regular
from portspec.report.output import write_file

if TYPE_CHECKING:
    from collections.abc import Iterator

PATHS: Final = ("conf.yml", "compose.yml", "alert_rules", "deploy", "grafana")
_NOT_SHIPPED: Final = {"tests", "__pycache__", "debian", "sbom.sh"}  # the last two are for who makes a release
_MODE: Final = 0o644


def assets(output: str | None, *, replaces: bool = False) -> int:
    """List the files, or write them below the directory `output`; returns the exit code.

    A file that exists and differs is kept, and so are all others, unless `replaces`. Raises UsageError then, and
    PortspecError where a file cannot be written.
    """
    root = _root()
    found = list(_files(root))
    if output is None:
        write("".join(f"{file.relative_to(root)}\n" for file in found))
        return 0
    directory = Path(output)
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{output} is not a directory; name another one with --output")
    plan = [(file.read_bytes(), directory / file.relative_to(root)) for file in found]
    try:
        for _, target in plan:
            _check_place(target, directory)
        changed = [target for content, target in plan if target.exists() and target.read_bytes() != content]
        if changed and not replaces:
            kept = "\n".join(f"  {target}" for target in changed)
            raise UsageError(
                f"{count(len(changed), 'file exists and differs', 'files exist and differ')}:\n{kept}\n"
                "nothing was written; name another directory, or replace them with --force"
            )
        for content, target in plan:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_file(str(target), [content], _MODE)
    except OSError as error:
        named = why(error) if error.filename else f"{output}: {why(error)}"
        raise PortspecError(f"cannot write the files: {named}; name another directory with --output") from None
    write("".join(f"{target}\n" for _, target in plan))
    return 0


def _check_place(target: Path, directory: Path) -> None:
    """Refuse links below the directory, through which another user may lead, and what is no file. Raises OSError."""
    for place in (target, *target.parents):
        if place == directory:
            break
        if place.is_symlink():
            raise OSError(errno.ELOOP, "is a symbolic link", str(place))
    if target.exists():
        require_regular(target)


def _root() -> Path:
    package = Path(portspec.__file__).parent
    packed = package / "assets"
    return packed if packed.is_dir() else package.parents[1]


def _files(root: Path) -> Iterator[Path]:
    for name in PATHS:
        path = root / name
        if path.is_file():
            yield path
        yield from sorted(
            file
            for file in path.rglob("*")
            if file.is_file() and file.suffix != ".py" and _NOT_SHIPPED.isdisjoint(file.relative_to(root).parts)
        )
