"""How severe an unexpected open port is, and why (`port_severity` in conf.yml). Pure.

The table names services that should not face a network:

* critical: what is meant for a trusted network only, such as remote control, databases, storage, and the control of
  clusters and industrial devices, unless its clients need a certificate or a token; or what had a fault that was
  exploited on a large scale.
* warning: all others.

Every other port is a warning. A port has the severity of the service that usually listens there; portspec does not know
which one does.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from portspec.ports import NO_PORTS, PortSet

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class PortSeverity(enum.StrEnum):
    """The label `severity` of a deviation and of its alert, the highest first."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"


_RANKS: Final = {severity: place for place, severity in enumerate(PortSeverity)}


def highest(severities: Iterable[PortSeverity]) -> PortSeverity:
    """Return the highest of at least one severity."""
    return min(severities, key=_RANKS.__getitem__)


class Exposure(NamedTuple):
    """What the table has of a port: its severity, one sentence why, and the source of that."""

    severity: PortSeverity
    reason: str
    source: str


#: What the short names of sources in the table stand for: the title and the URL. Others stand for themselves.
SOURCES: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "bod-23-02": (
            "CISA, BOD 23-02: Mitigating the Risk from Internet-Exposed Management Interfaces",
            "https://www.cisa.gov/news-events/directives/binding-operational-directive-23-02",
        ),
        "ta14-017a": (
            "CISA, TA14-017A: UDP-Based Amplification Attacks",
            "https://www.cisa.gov/news-events/alerts/2014/01/17/udp-based-amplification-attacks",
        ),
        "shadowserver": (
            "Shadowserver, reports about accessible services",
            "https://www.shadowserver.org/what-we-do/network-reporting/",
        ),
        "docker": (
            "Docker, Protect the Docker daemon socket",
            "https://docs.docker.com/engine/security/protect-access/",
        ),
        "kubernetes": (
            "Kubernetes, Securing a Cluster",
            "https://kubernetes.io/docs/tasks/administer-cluster/securing-a-cluster/",
        ),
        "redis": ("Redis, Security", "https://redis.io/docs/latest/operate/oss_and_stack/management/security/"),
    }
)

# Ports, severity, source, reason.
_TABLE: Final = """
7 | warning | CERT Advisory CA-1996-01 | Echo over UDP answers each packet: forged ones let two hosts flood each other.
17 19 | warning | ta14-017a | QOTD and chargen over UDP answer more than they are asked, which floods others.
21 | warning | bod-23-02 | FTP sends passwords and files in clear text.
23 2323 | critical | bod-23-02 | Telnet sends passwords in clear text, and worms log in with default passwords.
79 | warning | RFC 1288, 3.2 | Finger tells strangers the names of users.
102 | critical | shadowserver | S7 has no authentication: whoever connects can control the industrial device.
111 | warning | ta14-017a | The portmapper lists the RPC services of the host, and amplifies floods over UDP.
135 | critical | shadowserver | The RPC endpoint mapper lists the services of Windows, and worms entered through it.
139 445 | critical | bod-23-02 | SMB gives files and remote control of Windows, and worms such as WannaCry spread by it.
389 | warning | ta14-017a | LDAP gives the directory's names, passwords in clear text, and floods over UDP.
427 | critical | CVE-2020-3992 | SLP was exploited to encrypt VMware ESXi hosts, and amplifies floods over UDP.
502 | critical | shadowserver | Modbus has no authentication: whoever connects can control the industrial device.
512 513 514 | critical | bod-23-02 | rexec, rlogin and rsh send passwords in clear text, or trust the client's address.
515 631 | warning | shadowserver | A printer that faces a network prints for strangers and shows them its jobs.
548 | critical | shadowserver | AFP gives files for whoever guesses a password, and tells the model of the machine.
554 | warning | shadowserver | Cameras often show their pictures by RTSP without a password.
873 | critical | shadowserver | rsync sends data in clear text, and its modules often need no password.
902 | critical | shadowserver | VMware's management of a host is a gate to all its virtual machines.
1080 3128 | warning | shadowserver | An open proxy lets strangers act with the address of this host.
1099 7199 | critical | Oracle, Monitoring and Management Using JMX | Java RMI and JMX may run code of their clients.
1433 1434 | critical | shadowserver | SQL Server gives data and runs commands for whoever guesses a password.
1521 | critical | shadowserver | Oracle's listener gives data for whoever guesses a password.
1723 | warning | Microsoft, Security Advisory 2743314 | PPTP's authentication (MS-CHAPv2) and encryption are broken.
1883 | warning | shadowserver | MQTT sends messages in clear text, and brokers often need no password.
2049 | critical | RFC 5531, 14 | NFS with AUTH_SYS trusts the user id that a client claims to have.
2181 | critical | Apache ZooKeeper, Access Control | ZooKeeper lets anyone read and change its data by default.
2375 | critical | docker | The Docker API without TLS makes anyone root of the host.
2376 | warning | docker | The Docker API makes whoever has a client certificate root of the host.
2377 | warning | docker | The management port of Docker Swarm is meant for the nodes of the swarm only.
2379 2380 | critical | kubernetes | etcd has all secrets of a Kubernetes cluster; whoever writes to it controls it.
2404 | critical | shadowserver | IEC 60870-5-104 has no authentication: whoever connects can control the substation.
3260 | critical | RFC 7143, 9 | iSCSI gives whole disks, by default without a password.
3306 33060 | critical | shadowserver | MySQL and MariaDB give data for whoever guesses a password.
3389 | critical | bod-23-02 | Remote Desktop gives Windows to whoever guesses a password; ransomware often enters by it.
3632 | critical | CVE-2004-2687 | distcc runs the commands of its clients, by default without a password.
4369 | warning | shadowserver | epmd lists the Erlang nodes of the host, such as RabbitMQ, and their ports.
4505 4506 | critical | CVE-2020-11651 | A Salt master controls all its minions, and had a fault that let strangers in.
4646 | critical | HashiCorp Nomad, Security Model | Nomad runs jobs for anyone unless access control is turned on.
4786 | critical | CVE-2018-0171 | Cisco Smart Install has no authentication: anyone can take over the switch.
4840 | critical | shadowserver | OPC UA gives access to industrial devices, often anonymously.
4899 | critical | shadowserver | Radmin gives the screen and keyboard to whoever guesses a password.
5432 | critical | shadowserver | PostgreSQL gives data for whoever guesses a password, and its superuser runs commands.
5555 | critical | shadowserver | Android Debug Bridge gives a shell on the device without a password.
5601 | warning | Elastic, Set up Security | Kibana shows the data of Elasticsearch, before version 8 without a password.
5672 | warning | shadowserver | AMQP sends messages and passwords in clear text.
5800 5801 5900 5901 5902 5903 | critical | bod-23-02 | VNC gives the screen and keyboard with a short password or none.
5984 | critical | shadowserver | CouchDB gives its data, before version 3 without a password by default.
5985 | critical | shadowserver | WinRM runs commands on Windows for whoever guesses a password.
5986 | critical | shadowserver | WinRM over TLS runs commands on Windows for whoever guesses a password.
6000 6001 6002 6003 6004 6005 6006 6007 | critical | bod-23-02 | X11 lets clients read the keyboard and screen.
6066 7077 | critical | Apache Spark, Security | Spark runs code for anyone unless authentication is turned on.
6379 6380 16379 | critical | redis | Redis is for trusted clients only: its commands can write files, and so run code.
6443 | warning | kubernetes | The Kubernetes API controls the cluster; it belongs to the administrators' network.
7001 7002 | critical | CVE-2020-14882 | WebLogic had several faults by which strangers ran code.
7547 | critical | shadowserver | CWMP (TR-069) manages routers, and worms such as Mirai entered through it.
8009 | critical | CVE-2020-1938 | AJP trusts its client: by a fault that was exploited, strangers read Tomcat's files.
8086 | critical | InfluxDB 1.8, Manage Security | InfluxDB before version 2 needs no password by default.
8200 | warning | HashiCorp Vault, Production Hardening | Vault has the secrets of other services.
8291 | critical | CVE-2018-14847 | Winbox had a fault by which strangers read the passwords of MikroTik routers.
8500 8501 | critical | HashiCorp Consul, Security Model | Consul lets anyone register services by default.
8888 | warning | Jupyter Server, Security | Jupyter runs code for whoever has its token.
8983 | critical | Apache Solr, Securing Solr | Solr needs no password by default, and its configuration can run code.
9042 9160 | critical | Apache Cassandra, Security | Cassandra lets anyone read and change all data by default.
9090 | warning | Prometheus, Security Model | Prometheus shows all metrics and targets without a password by default.
9092 | critical | Apache Kafka, Security | Kafka lets anyone read and write all messages by default.
9100 | warning | shadowserver | JetDirect prints whatever it gets; the node exporter shows what the machine does.
9200 9300 | critical | shadowserver | Elasticsearch gives all its data, before version 8 without a password by default.
10000 | critical | CVE-2019-15107 | Webmin administers the machine, and had a fault by which strangers became root.
10250 | critical | kubernetes | The kubelet runs commands in every container of its node.
10255 | warning | kubernetes | The kubelet's read-only port shows every pod of its node without a password.
10809 | critical | nbd, The NBD Protocol | NBD gives whole disks without a password.
11211 | critical | ta14-017a | memcached gives all its data without a password, and amplified record floods.
15672 | warning | RabbitMQ, Management Plugin | RabbitMQ's management controls the broker for whoever knows a password.
16992 16993 | critical | CVE-2017-5689 | Intel AMT controls the hardware, and had a fault that let anyone in.
20000 | critical | shadowserver | DNP3 has no authentication in most devices: whoever connects can control them.
24007 | critical | Gluster, Access Control | GlusterFS gives its volumes to any client that is not kept out by address.
25672 | critical | RabbitMQ, Clustering | Erlang nodes such as RabbitMQ run code for whoever knows one shared cookie.
27017 27018 27019 | critical | shadowserver | MongoDB gives all its data where access control is not turned on.
28015 | critical | RethinkDB, Secure Your Cluster | RethinkDB's administrator has no password by default.
44818 | critical | shadowserver | EtherNet/IP has no authentication: whoever connects can control the industrial device.
50000 | critical | shadowserver | Db2 gives data for whoever guesses a password.
50070 | critical | Apache Hadoop, Secure Mode | HDFS shows its files, and lets a client claim to be any user by default.
61616 | critical | CVE-2023-46604 | ActiveMQ had a fault by which strangers ran code, and which ransomware used.
"""


@cache
def exposures() -> Mapping[int, Exposure]:
    """Return what the table has of each of its ports."""
    found: dict[int, Exposure] = {}
    for line in _TABLE.strip().splitlines():
        ports, severity, source, reason = (part.strip() for part in line.split("|"))
        found |= dict.fromkeys(map(int, ports.split()), Exposure(PortSeverity(severity), reason, source))
    return MappingProxyType(found)


@dataclass(frozen=True, slots=True)
class PortSeverities:
    """The severities that conf.yml sets, of sets of ports that do not overlap; others are those of the table."""

    rules: tuple[tuple[PortSet, PortSeverity], ...] = ()

    @classmethod
    def of_rules(cls, rules: Iterable[tuple[PortSet, PortSeverity]]) -> PortSeverities:
        """Make severities of rules that may overlap: the first that has a port decides."""
        kept = []
        above = NO_PORTS
        for ports, severity in rules:
            kept.append((ports - above, severity))
            above |= ports
        return cls(tuple(kept))

    def of(self, port: int) -> PortSeverity:
        """Return the severity of an unexpected open port."""
        for ports, severity in self.rules:
            if port in ports:
                return severity
        found = exposures().get(port)
        return found.severity if found else PortSeverity.WARNING

    def divided(self, ports: PortSet) -> Mapping[PortSeverity, PortSet]:
        """Return unexpected open ports by their severity; none is left out."""
        found: dict[PortSeverity, PortSet] = {}
        for those, severity in (*self.rules, *_rules_of_table()):
            found[severity] = found.get(severity, NO_PORTS) | (ports & those)
            ports = ports - those
        found[PortSeverity.WARNING] = found.get(PortSeverity.WARNING, NO_PORTS) | ports
        return found


@cache
def _rules_of_table() -> tuple[tuple[PortSet, PortSeverity], ...]:
    by_severity: dict[PortSeverity, list[int]] = {}
    for port, item in exposures().items():
        by_severity.setdefault(item.severity, []).append(port)
    return tuple((PortSet.of(ports), severity) for severity, ports in by_severity.items())


DEFAULT_SEVERITIES: Final = PortSeverities()


def reason_of(port: int) -> str | None:
    """Return one sentence why the port should not face a network; None for one that the table does not have."""
    found = exposures().get(port)
    return found.reason if found else None
