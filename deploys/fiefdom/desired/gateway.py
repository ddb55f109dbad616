"""The gateway: one container with HAProxy, the reconciler and a Serf agent of its own."""

from __future__ import annotations

import json
import math

from fiefdom.desired import acme, routes
from fiefdom.desired.account import UID, with_account
from fiefdom.desired.containers import (
    env_file,
    env_path,
    own_image,
    sandbox_args,
    start_limit_s,
    stop_limit_s,
    with_containers,
)
from fiefdom.desired.context import Context
from fiefdom.desired.membership import agent_file, ring_files, rpc_environment
from fiefdom.desired.process import IN_MEMORY
from fiefdom.desired.programs import program
from fiefdom.desired.render import render
from fiefdom.desired.state import Container, Directory, File, HostState, Unit, digest
from fiefdom.model import LAST_PORT, Cluster, Secrets, Service
from fiefdom.model.certificates import served, served_chain
from fiefdom.model.front_rules import PLAIN_BUFFER_KIB
from fiefdom.model.tls import Certificate
from fiefdom.model.unit_names import unit_of

NAME = "gateway"
UNIT = unit_of(NAME)
CONFIG_DIR = "/etc/fiefdom/gateway"
STATE_DIR = "/var/lib/fiefdom/gateway"
HAPROXY_CONFIG = f"{CONFIG_DIR}/haproxy.cfg"
# Sorted before the configuration that names what is in it, and so in place before that.
CERTIFICATES_DIR = f"{CONFIG_DIR}/certificates"
CERTIFICATES = f"{CERTIFICATES_DIR}/list.txt"
GIVEUP_LUA = f"{CONFIG_DIR}/giveup.lua"
RECONCILER_CONFIG = f"{CONFIG_DIR}/reconciler.json"
AGENT_CONFIG = f"{CONFIG_DIR}/agent.json"
# Services that an operator closed, as the gateway itself keeps them: it outlives every container and configuration.
CLOSED = f"{STATE_DIR}/closed"
# Operators' lock and audit, which the page shows: cluster.ledger writes them, and makes the folder as it is here.
LEDGER_DIR = "/var/lib/fiefdom/ledger"

PIDS = 512
START_TIMEOUT_S = 60
# After HAProxy's own grace: Serf's leave and the container's end.
LEAVE_S = 15
HARD_STOP_AFTER_S = 900
# Beside two for each connection: checks, sockets, pipes, and what Serf and the reconciler hold.
SPARE_NOFILE = 4096

# Failed connections and answers of 5xx in a row after which an instance is out of rotation: see server_options.
MAX_ERRORS = 5

# A member may offer this many instances of a service before the gateway doubts it, unless the inventory has more.
MAX_INSTANCES = 100


def desired(context: Context) -> HostState:
    """The host's gateway; nothing where it is none.

    Its container is replaced by `systemctl reload`: a new one takes the listening sockets over, and no request notices.
    Its reconciler knows the inventory's hosts, and believes new ones in the cluster's network meanwhile, so hosts come
    and go without touching it first. HAProxy's configuration is not among what makes the container another one: the
    reconciler watches the file and reloads HAProxy itself.
    """
    if not context.is_gateway:
        return HostState()
    container = _container(context)
    state = HostState(
        directories=(
            Directory("/etc/fiefdom"),
            Directory(CONFIG_DIR),
            *((Directory(CERTIFICATES_DIR),) if context.cluster.gateway.tls else ()),
            Directory("/var/lib/fiefdom"),
            Directory(STATE_DIR, mode=0o700, uid=UID, gid=UID, serves=True),
            Directory(LEDGER_DIR, mode=0o750, gid=UID, keeps=True),
        ),
        files=(
            # Before the configuration that loads it: the reconciler may look at any moment.
            _giveup(),
            *_certificates(context),
            File(HAPROXY_CONFIG, _haproxy(context).encode()),
            File(RECONCILER_CONFIG, _reconciler(context).encode()),
            *ring_files(context, AGENT_CONFIG),
            agent_file(context, AGENT_CONFIG, tags={"role": "gateway"}, state_dir=STATE_DIR),
            env_file(NAME, rpc_environment(context)),
            _unit_file(container),
        ),
        units=(Unit(UNIT),),
        images=(own_image(context.cluster, "gateway"),),
    )
    # In one stroke with the supervisor, which reads it; not with what the container is made from.
    state += routes.pages(context) + acme.desired(context)
    return with_account(with_containers(state, container)) + HostState(files=(program("handover", mode=0o644),))


def _container(context: Context) -> Container:
    cluster = context.cluster
    gateway = cluster.gateway
    args = (
        # Clients keep their address, and Serf's UDP probes work.
        "--network=host",
        f"--env-file={env_path(NAME)}",
        f"--user={UID}:{UID}",
        f"--volume={CONFIG_DIR}:{CONFIG_DIR}:ro",
        f"--volume={STATE_DIR}:{STATE_DIR}",
        f"--volume={LEDGER_DIR}:{LEDGER_DIR}:ro",
        *sandbox_args(
            cluster,
            memory_mib=gateway.memory_mib,
            pids=PIDS,
            nofile=2 * gateway.maxconn + SPARE_NOFILE,
            tmpfs=dict.fromkeys(("/run", "/tmp"), f"{IN_MEMORY},size=16m,uid={UID},gid={UID}"),  # noqa: S108
        ),
    )
    return Container(
        name=NAME,
        unit=UNIT,
        role="gateway",
        image=own_image(cluster, "gateway").ref,
        args=args,
        # The reconciler follows haproxy.cfg, reconciler.json and agent.json by itself, without a restart.
        config=(env_path(NAME), *(file.path for file in ring_files(context, AGENT_CONFIG))),
        probe=f"http://{context.host.address}:{gateway.stats_port}/healthz",
        start_timeout_s=START_TIMEOUT_S,
        stop_grace_s=cluster.gateway_grace_s + LEAVE_S,
        version=own_image(cluster, "gateway").ref.rpartition(":")[2],
    )


def _giveup() -> File:
    """What HAProxy does when a request was lost on two instances: haproxy.cfg says when that is.

    Measured with HAProxy 3.0.11, 600 GETs a second and a GET that kills whoever reads it; the kills were of 4 of 8
    instances at once; time is HAProxy's own for a GET on a kept connection, give or take 0.05:

        way                                         lethal GET: dead of 12   GETs failed by kills    time
        retries 5, what was sent as well            6, no answer             4 of 64,862 in 32       1
        retries 1                                   2, a 502                 65 of 13,700 in 8
        retries 1, observe layer4 error-limit 1     2, a 502                 20 of 14,533 in 8
        a pass that tries again before one          2, a 502                 14 of 12,558 in 8       1.6
          that connects, over a socket
        the same, the second time 100 ms later      2, a 502                 1 of 13,451 in 8        1.6
        haproxy.cfg's rules, each loss counts       2, a 502                 17 of 14,567 in 8
        haproxy.cfg's rules, retries 5              2, a 502                 2 of 17,708 in 16
        haproxy.cfg's rules, retries 10             2, a 502                 0 of 86,658 in 40       1.03

    Two instances that die at the same moment are why a second try alone is not enough: the kernel of the second one
    still takes the request, and resets the connection when the process is gone. HAProxy tells that from an end without
    an answer (`bc_err_name`), so such a try costs nothing. What is left for the retries is connections, so they are
    more: with 5, a request met six dead ones now and then. Lua is for the answer alone: without it, the connection of
    the client would be closed with none, and many clients then send a GET once more.
    """
    return File(GIVEUP_LUA, render("giveup.lua.j2").encode())


def _certificates(context: Context) -> tuple[File, ...]:
    """Each certificate with its key in one file, for the container's user alone, and the list of them.

    Their names stay when they are renewed: what HAProxy has read of them it keeps until its next reload, and the last
    good configuration, which a restarted container begins with, goes on naming files that are there.
    """
    tls = context.cluster.gateway.tls
    if tls is None:
        return ()
    pems = tuple(
        File(
            certificate_path(name),
            _served(context.secrets, certificate),
            mode=0o400,
            uid=UID,
            gid=UID,
            secret=True,
        )
        for name, certificate in tls.certificates.items()
    )
    paths = (*(pem.path for pem in pems), *acme.paths(context))
    return (*pems, File(CERTIFICATES, render("certificates.txt.j2", paths=paths).encode()))


def _served(secrets: Secrets, certificate: Certificate) -> bytes:
    """What a gateway serves with; empty for who reads no certificates, for he writes no gateway's files."""
    chain, key = secrets.contents.get(certificate.chain), secrets.contents.get(certificate.key)
    return b"" if chain is None or key is None else served(chain, key)


def certificate_path(name: str) -> str:
    """Where a gateway has a certificate."""
    return f"{CERTIFICATES_DIR}/{name}.pem"


def _tls(context: Context) -> dict[str, object] | None:
    """What the template says of TLS. The digests leave keys out: each is the only one of its certificate."""
    tls = context.cluster.gateway.tls
    if tls is None:
        return None
    found = [context.secrets.contents.get(certificate.chain) for certificate in tls.certificates.values()]
    chains = [served_chain(chain) for chain in found if chain is not None]
    return {
        "port": tls.port,
        "list": CERTIFICATES,
        "digests": [digest(" ".join([*tls.certificates, *acme.paths(context)]))[:12], digest(b"".join(chains))[:12]],
        "plain_port": tls.plain_port,
        "answer": acme.answer(context),
        "redirect": tls.redirect,
        "hsts": tls.hsts and f"max-age={tls.hsts.max_age_s}" + "; includeSubDomains" * tls.hsts.subdomains,
    }


def _haproxy(context: Context) -> str:
    cluster = context.cluster
    gateway = cluster.gateway
    return render(
        "haproxy.cfg.j2",
        stats_bind=f"{context.host.address}:{gateway.stats_port}",
        stats_names=stats_names(cluster),
        listeners=routes.listeners(cluster),
        backends=[routes.backend(cluster, name, context.secrets) for name in routes.of_kind(cluster, "http")],
        tcp_services=[
            {
                "name": name,
                "port": cluster.services[name].gateway_port,
                "health_timeout_s": cluster.services[name].health.timeout_s,
            }
            for name in routes.of_kind(cluster, "tcp")
        ],
        maxconn=gateway.maxconn,
        retries=gateway.retries,
        balance=gateway.balance,
        connect_timeout_s=gateway.connect_timeout_s,
        server_timeout_s=gateway.server_timeout_s,
        client_timeout_s=gateway.client_timeout_s,
        request_timeout_s=gateway.request_timeout_s,
        hard_stop_after_s=hard_stop_after_s(cluster),
        giveup_lua=GIVEUP_LUA,
        giveup_digest=_giveup().digest[:12],
        source_limits=gateway.source_limits,
        proxies=gateway.proxies,
        proxy_protocol=gateway.proxy_protocol,
        buffer_kib=gateway.buffer_kib if gateway.buffer_kib != PLAIN_BUFFER_KIB else None,
        dot_segments=gateway.dot_segments,
        tls=_tls(context),
        access_log=gateway.access_log,
        closed_file=CLOSED,
    )


def stats_names(cluster: Cluster) -> list[str]:
    """Names by which a gateway's statistics port may be asked for, beside its address: those of any gateway, for one
    name may lead to all, and those that the inventory allows.
    """
    hosts = [cluster.hosts[name] for name in cluster.gateways]
    # The port listens at no IPv6 address, even where SSH does. And who says where SSH is as the host's own address says
    # nothing new: another repository's inventory says it of each.
    places = [p for host in hosts if (p := host.ssh.address) and ":" not in p and p != host.address]
    return sorted({*cluster.gateways, *places, *cluster.gateway.stats_names})


def hard_stop_after_s(cluster: Cluster) -> int:
    """Seconds that a replaced worker of HAProxy has for its open requests.

    Longer than a request may take and than a stop waits: it is there for clients that never end.
    """
    longest_s = math.ceil(cluster.longest_server_timeout_s + cluster.gateway.client_timeout_s)
    return max(HARD_STOP_AFTER_S, longest_s + LEAVE_S, cluster.gateway_grace_s + LEAVE_S)


def _reconciler(context: Context) -> str:
    cluster = context.cluster
    config = {
        "cluster": cluster.cluster,
        "node": context.name,
        "haproxy_config": HAPROXY_CONFIG,
        "state_dir": STATE_DIR,
        "serf_config": AGENT_CONFIG,
        "rpc_addr": f"127.0.0.1:{cluster.serf.rpc_port}",
        "interval_s": 5,
        "absent_grace_s": 120,
        "stop_grace_s": cluster.gateway_grace_s,
        "network": cluster.network.cidr,
        "known_hosts_only": cluster.gateway.known_hosts_only,
        "hosts": {name: _as_known(cluster, name) for name in cluster.hosts},
        "services": [
            {
                "name": name,
                "backend": name,
                "base_port": service.base_port,
                "max_instances": max_instances(cluster, name),
                "server_options": server_options(service),
                "upgraded": _upgraded(cluster, name),
                **({"kind": service.kind} if service.kind != "http" else {}),
                **({"sticky": True} if service.route.sticky_cookie else {}),
            }
            for name, service in sorted(cluster.services.items())
            if cluster.is_routed(name)
        ],
    }
    return json.dumps(config, indent=2, sort_keys=True) + "\n"


def _upgraded(cluster: Cluster, name: str) -> str:
    """What becomes of connections that stand when the service is withdrawn: where nobody takes over, none is kept."""
    drain = cluster.services[name].drain
    return "close" if cluster.pauses(name) and "upgraded" not in drain.model_fields_set else drain.upgraded


def _as_known(cluster: Cluster, host: str) -> dict[str, object]:
    last_ports = {instance.service: instance.port for instance in cluster.routed(host)}
    return {"address": cluster.hosts[host].address, "services": sorted(last_ports), "last_ports": last_ports}


def server_options(service: Service) -> str:
    """Options of a `server` line; a server added at run time inherits nothing, so all of them.

    `observe layer7` takes an instance out that refuses connections or answers 5xx, until its next good health check.
    `error-limit` counts such answers in a row. Measured with four instances, 5 retries and 500 requests a second:

        limit  1 or 2 of 4 killed,    one of 4 answers      each answers 500      one client repeats a
               each balance           500, for 5 s          to 1 of 200           request that gets 500
        1      0 GETs failed          3 POSTs got it        all down, 2/3 503     all down, 9/10 503
        2      0 GETs failed          7 POSTs got it        none down             all down
        3      0 GETs failed          6 POSTs got it        none down             all down
        5      0 GETs failed          10 POSTs got it       none down             none down
        8      1 of 3,520 failed      14 POSTs got it
        10     2 of 3,299 failed

    (Today there are 10 retries, for connections: see _giveup.)

    So it is 5, whatever the retries are: with fewer of them some requests meet a killed instance before it is out, but
    with a limit of 1 a single answer of 500 would take an instance from all. With a twentieth of the other traffic that
    one client had all down at 5, too, as long as a 500 was asked for again elsewhere: each of its requests was six
    errors then. So haproxy.cfg leaves a 500 as it is: then one of four at a time was down, even where that client sent
    two thirds of all requests. The price is that GETs get an instance's 500, too: 33 answers in 5 s.
    """
    interval = f"{round(service.health.interval_s * 1000)}ms"
    if service.kind == "tcp":
        # What its clients hold open would stay on a host that lost its power until they give up themselves.
        observed = f"observe layer4 error-limit {MAX_ERRORS} on-error mark-down on-marked-down shutdown-sessions"
        return f"check inter {interval} fall 2 rise 1 {observed}"
    # Checks on a port of their own are mostly a server of HTTP/1.1 beside that of gRPC.
    spoken = f" proto h2 check-proto {'h2' if service.health.base_port is None else 'h1'}" if service.h2c else ""
    return f"check inter {interval} fall 2 rise 1 observe layer7 error-limit {MAX_ERRORS} on-error mark-down{spoken}"


def max_instances(cluster: Cluster, name: str) -> int:
    """How many ports from a service's base port the gateway believes a member to serve it on.

    At least what the inventory has on any host; beyond that up to the next base port, of this service's checks too.
    """
    bases = [port for service in cluster.services.values() for port in _bases(service)]
    rooms = (
        min([*(port for port in bases if port > base), LAST_PORT + 1]) - base for base in _bases(cluster.services[name])
    )
    room = min(rooms)
    asked = max(cluster.count(host, name) for host in cluster.hosts)
    return max(asked, min(MAX_INSTANCES, room))


def _bases(service: Service) -> list[int]:
    checks = service.health.base_port
    return [service.base_port] if checks is None else [service.base_port, checks]


def _unit_file(container: Container) -> File:
    text = render(
        "fiefdom-gateway.service.j2", start_limit_s=start_limit_s(container), stop_limit_s=stop_limit_s(container)
    )
    return File(f"/etc/systemd/system/{UNIT}", text.encode())
