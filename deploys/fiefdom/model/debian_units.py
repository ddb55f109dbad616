"""Names that packages of Debian give to template units, less systemd's own: a fact of Debian's archive.

A service's instances are units NAME@PORT.service. Under one of these names, its template would take the place of the
package's, on a host that has it or gets it one day.
"""

from __future__ import annotations

_NAMES = """
anytun anytun-controld apache-htcacheclean apache2 approx arpon arpwatch autovt balboa-backend booth buildbot
buildbot-worker capsule carbon-aggregator carbon-aggregator-cache carbon-relay ceph-fuse ceph-immutable-object-cache
ceph-mds ceph-mgr ceph-mon ceph-osd ceph-radosgw ceph-rbd-mirror ceph-volume cephfs-mirror chrony-dnssrv clsync cmsd
cockpit-session cockpit-wsinstance-https cockpit-wsinstance-https-factory configure-printer container container-getty
cron-failure cron-mail csync2 custodia debci-worker devmon dhcp-probe dhcpcd dicod dirsrv dnsdist dnsmasq drbd
drbd-demote-or-escalate drbd-lvchange drbd-promote drbd-reconfigure-suspend-or-error drbd-wait-promotable driverctl
drkonqi-coredump-processor e2scrub emptty errbot fastd faxgetty frr getty globus-scheduler-event-generator gophernicus
gpsdctl grok-fsck grok-pull hdapsd hostapd ifup ixfrdist kmsconvt kresd leafnode localslackirc luanti-server lxc
make-dynpart-mappings mariadb mdadm-grow-continue mdadm-last-resort mdmon mdns-reflector micro-httpd mimic
minetest-server mirrorbits modprobe molly-brown monopd moosefs-chunkserver moosefs-metalogger munin-node-c nbd nebula
netctl netctl-auto netctl-ifplugd netscript nfdump nut-driver nvmf-connect nyancat-server obsscheduler obsworker
oidentd onedrive openarena-server opengnb openqa-reload-worker-auto-restart openqa-worker openqa-worker-auto-restart
openqa-worker-no-cleanup openqa-worker-plain opensm openvpn openvpn-client openvpn-server openvpn3-session
ostree-state-overlay pass-close patroni pcapdump pdns pdns-recursor phc2sys podman-kube policy-routes portsentry
postfix postgresql ppp proftpd proxsmtp ptp4l qbittorrent-nox quotaon rbldnsd rdma-load-modules rebuilderd-worker
redis-sentinel redis-server refresh-policy-routes robustirc-bridge saned scanbm serial-getty shadowsocks-libev-local
shadowsocks-libev-redir shadowsocks-libev-server shadowsocks-libev-tunnel slidge softflowd sshd stas-config stunnel
swift-account-auditor swift-account-reaper swift-account-replicator swift-container-auditor swift-container-replicator
swift-container-sharder swift-container-sync swift-container-updater swift-object swift-object-auditor
swift-object-reconstructor swift-object-replicator swift-object-updater swupdate-usb syncthing tangd tarantool tayga
tigervncserver tinc tinysshd tor trojan tryton-server-cron tryton-server-uwsgi tryton-server-worker udisks2-zram-setup
user user-runtime-dir uucp uwsgi-app valkey-sentinel valkey-server vblade vip-manager voms vpnc wacom-inputattach
weborf wg-quick xrootd
"""
TEMPLATES = frozenset(_NAMES.split())
"""Every `NAME@.service` in the lists of contents of Debian 12 and 13 (main; all and amd64) in November 2026."""
