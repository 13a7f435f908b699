"""Whether vulnerable code can be reached from outside, by audit and scan."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.audit.model import Severity, Vulnerability
from portspec.audit.payload import Library, ListeningSocket
from portspec.audit.reach import Exposure, Reach, SeenAddress, exposures
from portspec.ports import NO_PORTS, PortSet
from portspec.priorities import REACHES, SEVERITIES

ANY = "0.0.0.0"  # noqa: S104 - of an audit
LIBSSL = Library("/usr/lib/libssl.so.3", "libssl3:amd64", "3.0.11-1", "openssl")
NGINX = ListeningSocket(
    "tcp", ANY, 443, "nginx", "www", "/usr/sbin/nginx", package="nginx-core", source="nginx", libraries=(LIBSSL,)
)
SCANNED = PortSet.of([22, 80, 443])
OPEN = (SeenAddress("192.0.2.1", SCANNED, PortSet.of([443])),)
CLOSED = (SeenAddress("192.0.2.1", SCANNED, PortSet.of([])),)


def of(package: str, *paths: str) -> Vulnerability:
    """Make a vulnerability of a package."""
    return Vulnerability(package, "1", "CVE-2026-0001", paths=paths)


def test_words_of_conf_yml_are_those_of_the_code() -> None:
    """Rules of conf.yml name them."""
    assert tuple(Reach) == REACHES
    assert tuple(Severity) == SEVERITIES


@pytest.mark.parametrize("package", ["nginx-core", "nginx", "libssl3", "openssl"])
def test_package_of_what_listens_on_an_open_port_is_reachable(package: str) -> None:
    """By the executable or by a library, by the binary or by the source package; each step of the proof is told."""
    found = exposures((NGINX,), OPEN).of(of(package))
    assert found.reach is Reach.REACHABLE
    file = "/usr/sbin/nginx" if package.startswith("nginx") else "/usr/lib/libssl.so.3"
    assert found.steps == f"{file}, nginx, port 443, open at 192.0.2.1"


def test_package_that_owns_nothing_of_what_listens_is_installed() -> None:
    """On a host of which the audit tells what listens, and where nothing else answers."""
    found = exposures((NGINX,), OPEN).of(of("vim"))
    assert found == Exposure(Reach.INSTALLED, "it owns nothing of what listens")


@pytest.mark.parametrize(
    ("listener", "view", "reach", "why"),
    [
        (NGINX, CLOSED, Reach.LISTENING, "the scan did not find port 443 open"),
        (NGINX, (), Reach.UNKNOWN, "no scan of the host reached a verdict"),
        (replace(NGINX, port=8443), OPEN, Reach.UNKNOWN, "the scan did not tell whether port 8443 is open"),
        (replace(NGINX, address="127.0.0.1"), OPEN, Reach.LISTENING, "it listens on a loopback address"),
        (replace(NGINX, address="::1"), (), Reach.LISTENING, "it listens on a loopback address"),
        (replace(NGINX, protocol="udp"), OPEN, Reach.UNKNOWN, "UDP is not scanned"),
        (replace(NGINX, address="10.0.0.1"), OPEN, Reach.REACHABLE, ""),  # NAT
        (
            replace(NGINX, address="192.0.2.2"),
            (*CLOSED, SeenAddress("192.0.2.2", SCANNED, PortSet.of([]))),
            Reach.LISTENING,
            "the scan did not find port 443 open",
        ),
        (replace(NGINX, address="127.0.0.1"), (replace(OPEN[0], address="127.0.0.1"),), Reach.REACHABLE, ""),
    ],
)
def test_what_the_scan_did_not_see_is_unknown(
    listener: ListeningSocket, view: tuple[SeenAddress, ...], reach: Reach, why: str
) -> None:
    """What it saw closed is only listening. A socket of an address that is not scanned may be behind NAT."""
    found = exposures((listener,), view).of(of("nginx"))
    assert (found.reach, found.why) == (reach, why)


ADMIN = replace(NGINX, address="10.0.0.5", executable="/usr/sbin/admin", package="admin", source="admin", libraries=())


@pytest.mark.parametrize(
    ("listeners", "view", "reach"),
    [
        # The port is open at an address at which another socket answers.
        ((ADMIN, replace(NGINX, address="192.0.2.1")), OPEN, Reach.UNKNOWN),
        ((ADMIN, NGINX), OPEN, Reach.UNKNOWN),
        ((ADMIN,), OPEN, Reach.REACHABLE),
        ((ADMIN,), CLOSED, Reach.UNKNOWN),
        ((replace(ADMIN, address="fe80::1%eth0"),), OPEN, Reach.UNKNOWN),
        # IPv4 and IPv6.
        ((replace(ADMIN, address=ANY),), (*CLOSED, replace(OPEN[0], address="2001:db8::1")), Reach.UNKNOWN),
        ((replace(ADMIN, address="::"),), (*CLOSED, replace(OPEN[0], address="2001:db8::1")), Reach.REACHABLE),
        ((replace(ADMIN, address="::"),), CLOSED, Reach.LISTENING),
        # An address that could not be scanned, or a port that may be open.
        ((replace(ADMIN, address="::"),), (*CLOSED, SeenAddress("2001:db8::1", NO_PORTS, NO_PORTS)), Reach.UNKNOWN),
        ((replace(ADMIN, address=ANY),), (SeenAddress("192.0.2.1", PortSet.of([22]), NO_PORTS),), Reach.UNKNOWN),
    ],
)
def test_socket_answers_where_it_is_bound(
    listeners: tuple[ListeningSocket, ...], view: tuple[SeenAddress, ...], reach: Reach
) -> None:
    """What may be another's is not proven, and what the scan did not settle is not closed."""
    assert exposures(listeners, view).of(of("admin")).reach is reach


def test_what_nobody_has_seen_is_nearer_than_what_only_listens() -> None:
    """A library that one process has on loopback may be in the one of which nothing is known, too."""
    local = replace(NGINX, address="127.0.0.1")
    unseen = ListeningSocket("tcp", ANY, 80, "haproxy", "root")
    assert exposures((local, unseen), CLOSED).of(of("openssl")).reach is Reach.UNKNOWN
    assert exposures((local,), OPEN).of(of("openssl")).reach is Reach.LISTENING
    assert exposures((local,), (replace(OPEN[0], open=PortSet.of([22])),)).of(of("openssl")).reach is Reach.UNKNOWN


@pytest.mark.parametrize(
    ("paths", "reach"),
    [
        (("/opt/app/app.jar",), Reach.UNKNOWN),  # of a process that may have read it
        (("/srv/node_modules/x/package.json",), Reach.UNKNOWN),
        (("/usr/local/bin/tool",), Reach.INSTALLED),
        (tuple(f"/usr/local/bin/{number}" for number in range(20)), Reach.UNKNOWN),  # and more that are not told
        (("/usr/sbin/nginx", "/opt/app/app.jar"), Reach.REACHABLE),
    ],
)
def test_file_that_a_process_may_have_read_is_unknown(paths: tuple[str, ...], reach: Reach) -> None:
    """Such as an archive of Java: only executables and libraries are seen to be in use."""
    assert exposures((NGINX,), OPEN).of(of("x", *paths)).reach is reach
    local = replace(NGINX, address="127.0.0.1")
    assert exposures((local,), CLOSED).of(of("x", "/opt/app/app.jar")).reach is Reach.INSTALLED


def test_process_with_files_of_the_host_counts_whatever_its_cgroup_is_called() -> None:
    """A user may name a cgroup of its own like one of a container."""
    assert exposures((replace(NGINX, container="4f" * 32),), OPEN).of(of("nginx")).reach is Reach.REACHABLE


def test_reason_is_short_however_long_the_names_are() -> None:
    """It stands beside each vulnerability, of which there may be a hundred thousand."""
    long = replace(NGINX, process="p" * 1000, executable=f"/{'x' * 999}")
    assert len(exposures((long,), OPEN).of(of("nginx")).steps) < 400
    assert len(exposures((replace(long, libraries=None),), OPEN).of(of("vim")).why) < 400


def test_nearest_socket_counts() -> None:
    """Of several that the same package has."""
    local = replace(NGINX, address="127.0.0.1", port=8080)
    for listeners in ((local, NGINX), (NGINX, local)):
        assert exposures(listeners, OPEN).of(of("openssl")).reach is Reach.REACHABLE
    udp = replace(NGINX, protocol="udp")
    assert exposures((local, udp), OPEN).of(of("openssl")).reach is Reach.UNKNOWN


@pytest.mark.parametrize("path", ["/opt/app/server", "opt/app/server"])
def test_program_that_was_found_vulnerable_is_found_by_its_path(path: str) -> None:
    """As those of Go that no package owns; then the name of its package, which may be another's, does not count."""
    server = ListeningSocket("tcp", ANY, 443, "server", "www", "/opt/app/server", libraries=())
    assert exposures((server,), OPEN).of(of("golang.org/x/net", path)).reach is Reach.REACHABLE
    assert exposures((NGINX,), OPEN).of(of("nginx", "/srv/bin/nginx")).reach is Reach.INSTALLED


def test_what_the_agent_did_not_see_is_unknown() -> None:
    """Without root, on FreeBSD, from an older agent: any package may own what listens."""
    bare = ListeningSocket("tcp", ANY, 443, "nginx", "www")
    for listeners, why in (
        (None, "the audit does not tell what listens"),
        ((bare,), "the audit does not tell which files nginx on port 443 runs"),
    ):
        found = exposures(listeners, OPEN).of(of("vim"))
        assert (found.reach, found.why) == (Reach.UNKNOWN, why)


def test_open_port_that_the_audit_does_not_explain_makes_the_rest_unknown() -> None:
    """A host that is broken into may hide what listens, and a process may have begun since the audit."""
    found = exposures((NGINX,), (replace(OPEN[0], open=PortSet.of([22, 443])),)).of(of("vim"))
    assert found.reach is Reach.UNKNOWN
    assert found.why == "port 22 is open at 192.0.2.1, and the audit does not tell what listens there"


def test_packages_of_the_host_do_not_own_what_runs_in_a_container() -> None:
    """docker-proxy holds the port, but what answers is of the image."""
    proxy = ListeningSocket(
        "tcp", ANY, 443, "docker-proxy", "root", "/usr/bin/docker-proxy", package="docker.io", container="4f" * 32
    )
    assert exposures((proxy,), OPEN).of(of("docker.io")).reach is Reach.INSTALLED


SOCKETS = st.builds(
    ListeningSocket,
    st.sampled_from(["tcp", "udp"]),
    st.sampled_from([ANY, "::", "127.0.0.1", "192.0.2.1", "192.0.2.9"]),
    st.sampled_from([22, 443]),
    executable=st.none() | st.sampled_from(["/a", "/b"]),
    package=st.none() | st.sampled_from(["a", "b"]),
    container=st.none() | st.just("4f" * 32),
    libraries=st.none() | st.sampled_from([(), (LIBSSL,), (Library("/x", "a", "1", "b"),)]),
)
VIEWS = st.lists(
    st.builds(
        lambda address, scanned, found: SeenAddress(address, PortSet.of(scanned), PortSet.of(found & scanned)),
        st.sampled_from(["192.0.2.1", "192.0.2.2"]),
        st.sets(st.sampled_from([22, 443])),
        st.sets(st.sampled_from([22, 443])),
    ),
    max_size=2,
).map(tuple)


@given(st.none() | st.lists(SOCKETS, max_size=4).map(tuple), VIEWS, st.sampled_from(["a", "b", "openssl", "c"]))
def test_reachable_is_only_what_was_seen_open_and_installed_only_what_is_known(
    listeners: tuple[ListeningSocket, ...] | None, view: tuple[SeenAddress, ...], package: str
) -> None:
    """Whatever audit and scan say: every step of the proof is there, or it is told what is missing."""
    found = exposures(listeners, view).of(of(package))
    if found.reach is Reach.REACHABLE:
        listener = found.listener
        assert listener is not None
        assert listener.protocol == "tcp"
        assert any(item.address == found.address and listener.port in item.open for item in view)
        libraries = [name for item in listener.libraries or () for name in (item.package, item.source)]
        names = [listener.package, listener.source, *libraries]
        assert package in {name.partition(":")[0] for name in names if name}
        return
    assert found.why
    if found.reach is Reach.INSTALLED:
        assert listeners is not None
        assert all(item.libraries is not None or item.container for item in listeners)
        held = {item.port for item in listeners if item.protocol == "tcp"}
        assert all(set(item.open) <= held for item in view)
