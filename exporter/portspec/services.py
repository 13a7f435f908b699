"""Names of TCP services and their ports, also where there is no services(5) database, as in small images.

/etc/services has precedence. The table holds names of the IANA registry (RFC 6335), names in Debian's /etc/services,
and the usual names of software without an assigned one: for ports that are often found open, and for common servers.
"""

from __future__ import annotations

import socket
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Port, name, other names. A name that stands at two ports is that of the first.
_TABLE = """
1 tcpmux, 7 echo, 9 discard sink null, 11 systat users, 13 daytime, 17 qotd quote, 19 chargen, 20 ftp-data,
21 ftp, 22 ssh, 23 telnet, 25 smtp mail, 37 time timserver, 43 whois nicname, 49 tacacs, 53 domain dns,
70 gopher, 79 finger, 80 http www, 88 kerberos kerberos5 krb5 kerberos-sec, 102 iso-tsap tsap s7,
104 acr-nema dicom, 106 poppassd, 110 pop3 pop-3, 111 sunrpc portmapper rpcbind,
113 auth authentication tap ident, 119 nntp readnews untp, 135 epmap loc-srv msrpc, 137 netbios-ns,
139 netbios-ssn, 143 imap2 imap, 161 snmp, 162 snmp-trap snmptrap, 179 bgp, 194 irc, 199 smux, 209 qmtp,
210 z3950 wais, 264 bgmp, 311 asip-webadmin, 318 pkix-timestamp, 371 clearcase, 389 ldap, 427 svrloc,
443 https, 444 snpp, 445 microsoft-ds smb, 464 kpasswd, 465 submissions ssmtp smtps urd, 497 retrospect dantz,
500 isakmp, 502 mbap modbus, 512 exec, 513 login, 514 shell cmd, 515 printer spooler lpd, 540 uucp uucpd,
543 klogin, 544 kshell krcmd, 548 afpovertcp afp, 554 rtsp, 563 nntps snntp, 587 submission,
593 http-rpc-epmap, 623 asf-rmcp ipmi, 631 ipp cups, 636 ldaps, 646 ldp, 647 dhcp-failover, 655 tinc,
674 acap, 691 msexch-routing, 706 silc, 749 kerberos-adm, 750 kerberos4 kerberos-iv kdc, 783 spamd,
830 netconf-ssh, 848 gdoi, 853 domain-s dns-over-tls, 860 iscsi, 861 owamp-control, 862 twamp-control,
873 rsync, 901 swat, 902 vmware-auth, 953 rndc, 989 ftps-data, 990 ftps, 992 telnets, 993 imaps, 994 ircs,
995 pop3s, 1080 socks, 1090 ff-fms, 1099 rmiregistry, 1194 openvpn, 1241 nessus, 1270 opsmgr, 1311 rxmon,
1352 lotusnote lotusnotes, 1414 ibm-mqseries mq, 1433 ms-sql-s mssql, 1434 ms-sql-m, 1494 ica citrix-ica,
1512 wins, 1521 oracle ncube-lm, 1524 ingreslock, 1526 pdap-np, 1604 icabrowser, 1645 datametrics old-radius,
1701 l2tp, 1720 h323hostcall h323, 1723 pptp, 1755 ms-streaming wms, 1801 msmq, 1812 radius,
1813 radius-acct radacct, 1863 msnp, 1883 mqtt, 1900 ssdp upnp, 1935 macromedia-fcs rtmp, 2000 cisco-sccp,
2049 nfs, 2082 infowave cpanel, 2083 radsec cpanel-ssl, 2086 gnunet, 2087 eli, 2095 nbx-ser, 2096 nbx-dir,
2103 zephyr-clt, 2121 iprop ccproxy-ftp, 2181 zookeeper eforward, 2222 ethernet-ip-1, 2375 docker,
2376 docker-s, 2377 swarm, 2379 etcd-client, 2380 etcd-server, 2401 cvspserver, 2404 iec-104, 2424 orientdb,
2483 ttc, 2484 ttc-ssl, 2525 smtp-alt, 2598 citriximaclient, 2601 zebra, 2602 ripd, 2604 ospfd, 2605 bgpd,
2608 isisd, 2628 dict, 2869 icslap, 2947 gpsd, 2967 ssc-agent, 3000 hbci grafana, 3001 origo-native,
3050 gds-db gds_db firebird, 3100 loki, 3128 squid squid-http ndl-aas, 3205 isns, 3260 iscsi-target,
3268 msft-gc globalcat, 3269 msft-gc-ssl globalcat-ssl, 3299 saprouter, 3306 mysql mariadb, 3333 dec-notes,
3343 ms-cluster-net, 3389 ms-wbt-server rdp, 3478 stun turn, 3483 slim-devices, 3493 nut, 3542 hacl-monitor,
3632 distcc distccd, 3689 daap rendezvous, 3690 svn subversion, 4000 terabase, 4045 lockd, 4159 nsss,
4190 sieve managesieve, 4222 nats, 4317 otlp-grpc, 4318 otlp-http, 4353 f5-iquery, 4369 epmd, 4433 vop,
4444 krb524, 4460 ntske, 4500 ipsec-nat-t, 4505 salt-publish, 4506 salt-request, 4557 fax, 4559 hylafax,
4567 galera, 4568 galera-ist, 4646 nomad-http, 4713 pulseaudio, 4786 smart-install, 4840 opcua-tcp opcua,
4848 appserv-http glassfish, 4899 radmin-port radmin, 4949 munin lrrd, 5000 commplex-main,
5001 commplex-link iperf, 5003 fmpro-internal filemaker, 5009 winfs, 5044 beats logstash, 5060 sip,
5061 sip-tls sips, 5101 talarian-tcp, 5190 aol, 5201 iperf3 targus-getdata1, 5222 xmpp-client jabber-client,
5223 xmpp-client-tls hpvirtgrp, 5269 xmpp-server jabber-server, 5280 xmpp-bosh, 5308 cfengine, 5353 mdns,
5357 wsdapi, 5358 wsdapi-s, 5432 postgresql postgres pgsql, 5433 pyrrho, 5500 fcp-addr-srvr1,
5555 adb personal-agent, 5556 freeciv, 5601 kibana esmagent, 5631 pcanywheredata, 5632 pcanywherestat,
5666 nrpe, 5667 nsca, 5671 amqps, 5672 amqp rabbitmq, 5678 rrac, 5683 coap, 5684 coaps, 5701 hazelcast,
5800 vnc-http, 5801 vnc-http-1, 5900 rfb vnc, 5901 vnc-1, 5902 vnc-2, 5938 teamviewer, 5984 couchdb,
5985 wsman, 5986 wsmans, 6000 x11 x11-0, 6001 x11-1, 6002 x11-2, 6003 x11-3, 6004 x11-4, 6005 x11-5,
6006 x11-6, 6007 x11-7, 6066 spark-rest, 6080 novnc, 6081 varnish, 6082 varnish-cli, 6112 dtspcd dtspc,
6346 gnutella-svc, 6347 gnutella-rtr, 6379 redis valkey, 6380 redis-tls, 6432 pgbouncer,
6443 kubernetes-api sun-sr-https, 6444 sge-qmaster sge_qmaster, 6445 sge-execd sge_execd, 6446 mysql-proxy,
6514 syslog-tls, 6566 sane-port sane saned, 6600 mpd, 6633 openflow-old, 6640 ovsdb, 6653 openflow, 6660 ircu,
6667 ircd, 6697 ircs-u, 6789 ceph-mon, 6881 bittorrent, 7000 bbs afs3-fileserver, 7001 afs3-callback weblogic,
7002 afs3-prserver weblogic-ssl, 7070 realserver arcp, 7100 font-service xfs, 7199 cassandra-jmx,
7473 neo4j-https, 7474 neo4j, 7547 cwmp, 7687 bolt, 7946 swarm-gossip, 8000 irdmi, 8005 tomcat-shutdown,
8006 proxmox wpl-analytics, 8007 proxmox-backup, 8008 http-alt-8008, 8009 ajp13 nvme-disc, 8021 zope-ftp,
8065 mattermost, 8080 http-alt webcache http-proxy, 8081 tproxy sunproxyadmin, 8083 us-srv,
8086 influxdb d-s-n, 8088 omniorb radan-http, 8089 splunkd, 8090 opsmessaging, 8091 couchbase,
8092 couchbase-api, 8123 clickhouse-http polipo, 8125 statsd, 8126 datadog-trace, 8140 puppet,
8161 activemq-web patrol-snmp, 8172 iis-deploy, 8200 vault, 8222 nats-monitor, 8291 winbox, 8300 consul-rpc,
8301 consul-serf-lan, 8302 consul-serf-wan, 8333 bitcoin, 8443 https-alt pcsync-https, 8472 otv vxlan-linux,
8500 consul fmtp, 8501 consul-https cmtp-mgt, 8530 wsus, 8531 wsus-https, 8600 consul-dns asterix,
8649 ganglia, 8686 sun-as-jmxrmi, 8834 nessus-web, 8883 secure-mqtt mqtts, 8888 ddi-tcp-1 jupyter, 8983 solr,
8990 clc-build-daemon, 9000 cslistener php-fpm clickhouse, 9001 etlservicemgr, 9002 dynamid,
9009 pichat clickhouse-interserver, 9042 cassandra cql, 9050 tor-socks, 9051 tor-control, 9080 glrpc,
9090 prometheus websm cockpit, 9091 pushgateway xmltec-xmlmail, 9092 kafka xmltec-xmlmail-tls,
9093 alertmanager, 9094 alertmanager-cluster, 9098 xinetd, 9100 pdl-datastream jetdirect node-exporter,
9101 bacula-dir, 9102 bacula-fd, 9103 bacula-sd, 9104 mysqld-exporter, 9113 nginx-exporter,
9115 blackbox-exporter, 9116 snmp-exporter, 9121 redis-exporter, 9160 cassandra-thrift apani1,
9182 windows-exporter, 9187 postgres-exporter, 9200 elasticsearch opensearch wap-wsp, 9216 mongodb-exporter,
9256 process-exporter, 9283 ceph-exporter, 9300 elasticsearch-transport vrace, 9306 sphinxql manticore,
9411 zipkin, 9418 git, 9443 tungsten-https, 9500 ismserver, 9595 pds, 9667 xmms2, 9673 zope,
9999 distinct abyss, 10000 webmin ndmp, 10050 zabbix-agent, 10051 zabbix-trapper, 10080 amanda, 10081 kamanda,
10082 amandaidx, 10083 amidxtape, 10161 snmptls, 10190 portspec, 10250 kubelet, 10255 kubelet-read-only,
10256 kube-proxy, 10257 kube-controller-manager, 10259 kube-scheduler, 10809 nbd, 11112 dicom,
11211 memcache memcached, 11371 hkp, 12201 gelf, 14250 jaeger-grpc, 14268 jaeger-http,
15672 rabbitmq-management, 16379 redis-cluster, 16509 libvirt, 16514 libvirt-tls, 16686 jaeger-query,
17500 db-lsp, 19999 netdata dnp-sec, 20000 dnp dnp3, 22125 dcap, 22128 gsidcap, 24007 glusterd, 24224 fluentd,
24554 binkp, 25565 minecraft, 25672 rabbitmq-clustering, 26257 cockroachdb, 27015 steam srcds,
27017 mongodb mongod, 27018 mongodb-shard, 27019 mongodb-config, 28015 rethinkdb, 30865 csync2, 33060 mysqlx,
35357 openstack-id keystone-admin, 44818 ethernet-ip-2, 47808 bacnet, 50000 ibm-db2 db2, 50070 hdfs-namenode,
61616 activemq, 64738 mumble
"""


@cache
def by_name() -> Mapping[str, int]:
    """Return the port of each name of the table, in lower case."""
    return MappingProxyType({name: port for port, names in reversed(_rows()) for name in names})


@cache
def by_port() -> Mapping[int, str]:
    """Return the name of each port of the table."""
    return MappingProxyType({port: names[0] for port, names in _rows()})


def _rows() -> list[tuple[int, list[str]]]:
    words = (entry.split() for entry in _TABLE.split(","))
    return [(int(port), names) for port, *names in words]


def port_of(name: str) -> int | None:
    """Return the TCP port of a service; None if neither the system nor the table knows it."""
    try:
        return socket.getservbyname(name, "tcp")
    except OSError:
        return by_name().get(name)


def name_of(port: int) -> str | None:
    """Return the service that has a TCP port; None if neither the system nor the table knows one."""
    try:
        return socket.getservbyport(port, "tcp")
    except OSError:
        return by_port().get(port)
    except OverflowError:  # no port at all
        return None
