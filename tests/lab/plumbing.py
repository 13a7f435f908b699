"""How the two namespaces are set up: kernel limits, the link between them, and the scanner's name look-ups.

The hosts' limits on ICMP errors, on half-open connections and on TIME-WAIT are lifted: with them, a host's answer would
depend on what was asked before. All of these belong to the network namespace in Linux 6.18. In older kernels some are
the whole system's (icmp_msgs_per_sec, icmp_msgs_burst): those do not appear inside, are left alone, and do not count,
as icmp_ratemask, always the namespace's own, exempts every type of message from them.

The whole system's too, hence left alone: net.core.netdev_max_backlog, the packets that a processor queues between the
ends of the veth pair (none of the 511,011 that masscan sent at its fastest was lost: Linux 6.18, 2 processors), and the
thresholds of the neighbour table (there are two neighbours, both permanent).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .namespaces import tool
from .truth import NETWORK4, NETWORK6

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .namespaces import Namespace

#: The scanner's own addresses, on the link to the hosts.
SCANNER4: Final = "198.18.128.1"
SCANNER6: Final = "2001:db8:19::1"
_GATEWAY4: Final = "198.18.128.2"
_GATEWAY6: Final = "2001:db8:19::2"
_SCANNER_MAC: Final = "02:00:00:00:00:01"
GATEWAY_MAC: Final = "02:00:00:00:00:02"

_IPV6: Final = {"net.ipv6.conf.all.disable_ipv6": "0"}
_LIMITS: Final = {
    "net.ipv4.icmp_ratelimit": "0",
    "net.ipv4.icmp_ratemask": "0",
    "net.ipv4.icmp_msgs_per_sec": "1000000000",
    "net.ipv4.icmp_msgs_burst": "1000000000",
    "net.ipv6.icmp.ratelimit": "0",
    "net.ipv6.icmp.ratemask": "",
    "net.ipv4.tcp_invalid_ratelimit": "0",
    "net.ipv4.tcp_max_syn_backlog": "65536",
    "net.core.somaxconn": "65536",
    # a connection that is over must not answer for a new SYN with the same addresses and ports
    "net.ipv4.tcp_max_tw_buckets": "0",
    # a local route is enough to bind to an IPv4 address, but not to an IPv6 one
    "net.ipv6.ip_nonlocal_bind": "1",
}

# All of it can be done again, which puts back what went with a link that was down.
# Neighbours are permanent, so no packet waits for, or is lost in, their discovery; IPv6 without link-local addresses
# has nothing to detect duplicates of.
_LINK: Final = """\
link set lo up
link set lab0 addrgenmode none
link set lab0 up
address replace {own4}/30 dev lab0
address replace {own6}/64 dev lab0 nodad
neighbour replace {peer4} lladdr {mac} dev lab0 nud permanent
neighbour replace {peer6} lladdr {mac} dev lab0 nud permanent
"""
_PAIR: Final = f"link add lab0 address {_SCANNER_MAC} type veth peer name lab0 address {GATEWAY_MAC} netns {{pid}}\n"
_SCANNER: Final = (
    _LINK.format(own4=SCANNER4, own6=SCANNER6, peer4=_GATEWAY4, peer6=_GATEWAY6, mac=GATEWAY_MAC)
    + f"route replace {NETWORK4} via {_GATEWAY4}\nroute replace {NETWORK6} via {_GATEWAY6}\n"
)
_HOSTS: Final = (
    _LINK.format(own4=_GATEWAY4, own6=_GATEWAY6, peer4=SCANNER4, peer6=SCANNER6, mac=_SCANNER_MAC)
    + f"route replace local {NETWORK4} dev lo\nroute replace local {NETWORK6} dev lo\n"
)

# The files live in a file system in memory that nothing but the bind mounts refers to, so they go with the namespace.
# A file that the system does not have cannot be covered; the C library's default without it is what is written here.
# nscd would answer from outside.
_FILES: Final = """\
mount -t tmpfs -o size=64m,mode=755 lab /tmp
cd /tmp
echo > hosts
echo 'nameserver 127.0.0.1' > resolv.conf
echo 'hosts: files dns' > nsswitch.conf
echo 'multi on' > host.conf
for file in hosts resolv.conf nsswitch.conf host.conf; do
  [ $file != hosts ] && [ ! -e /etc/$file ] || mount --bind $file /etc/$file
done
cd /
umount -l /tmp
[ ! -d /run/nscd ] || mount -t tmpfs -o size=64k,mode=755 lab /run/nscd
"""


def connect(scanner: Namespace, hosts: Namespace) -> None:
    """Join two new namespaces, and let the scanner's one resolve names by a file only, empty as yet.

    Raises :exc:`LabError`.
    """
    scanner.run("set the scanner's sysctls", ["sh", "-ec", _sysctls(_IPV6)])
    hosts.run("set the hosts' sysctls", ["sh", "-ec", _sysctls(_IPV6 | _LIMITS)])
    scanner.run("make the link", [tool("ip"), "-batch", "-"], _PAIR.format(pid=hosts.pid))
    configure(scanner, hosts)
    scanner.run("cover the scanner's files", ["sh", "-ec", _FILES])


def configure(scanner: Namespace, hosts: Namespace) -> None:
    """Set up both ends of the link, and what goes through it, whatever there is of it. Raises :exc:`LabError`."""
    batch = [tool("ip"), "-batch", "-"]
    scanner.run("configure the scanner's link", batch, _SCANNER)
    hosts.run("configure the hosts' link", batch, _HOSTS)


def _sysctls(values: Mapping[str, str]) -> str:
    """Write a shell script that sets them, but for those that this kernel does not have."""
    lines = ((f"/proc/sys/{name.replace('.', '/')}", value) for name, value in values.items())
    return "".join(f"[ ! -e {path} ] || echo '{value}' > {path}\n" for path, value in lines)
