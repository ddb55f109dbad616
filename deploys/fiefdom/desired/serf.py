"""The Serf agent of an app host: a member as soon as the host is up, whatever the host offers by then."""

from __future__ import annotations

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
from fiefdom.desired.programs import MADE_DIR, program
from fiefdom.desired.render import render
from fiefdom.desired.state import Container, Directory, File, HostState, Unit
from fiefdom.model.unit_names import unit_of

NAME = "serf-agent"
UNIT = unit_of(NAME)
CONFIG_DIR = "/etc/fiefdom/serf"
CONFIG = f"{CONFIG_DIR}/agent.json"
STATE_DIR = "/var/lib/fiefdom/serf"
# Its tags: what the host offers when it starts. In memory, for a host that boots offers nothing yet.
TAGS = f"{MADE_DIR}/tags.json"
HOST_CONF = "/etc/fiefdom/offers.conf"
"""What `offer` reads about the host."""

# Measured: 12 MB and 8 processes; a leave takes 1.2 to 2 s.
PIDS = 64
NOFILE = 1024
START_TIMEOUT_S = 30
STOP_GRACE_S = 15


def desired(context: Context) -> HostState:
    """The host's agent; nothing where it is no app host."""
    if not context.is_app_host:
        return HostState()
    container = _container(context)
    state = HostState(
        directories=(
            Directory("/etc/fiefdom"),
            Directory(CONFIG_DIR),
            Directory("/var/lib/fiefdom"),
            Directory(STATE_DIR, mode=0o700, uid=UID, gid=UID, serves=True),
        ),
        files=(
            *ring_files(context, CONFIG),
            agent_file(context, CONFIG, tags=None, state_dir=STATE_DIR),
            env_file(NAME, rpc_environment(context)),
            _unit_file(context, container),
            File(HOST_CONF, _host_conf(context).encode()),
            program("offer"),
        ),
        units=(Unit(UNIT),),
        images=(own_image(context.cluster, "serf"),),
    )
    return with_account(with_containers(state, container))


def _container(context: Context) -> Container:
    cluster = context.cluster
    args = (
        # Gossip's UDP probes break behind a bridge.
        "--network=host",
        f"--env-file={env_path(NAME)}",
        f"--user={UID}:{UID}",
        f"--volume={CONFIG_DIR}:{CONFIG_DIR}:ro",
        f"--volume={STATE_DIR}:{STATE_DIR}",
        f"--volume={MADE_DIR}:{MADE_DIR}:ro",
        *sandbox_args(
            cluster,
            memory_mib=cluster.serf.memory_mib,
            pids=PIDS,
            nofile=NOFILE,
            tmpfs=dict.fromkeys(("/run", "/tmp"), f"{IN_MEMORY},size=1m,uid={UID},gid={UID}"),  # noqa: S108
        ),
    )
    return Container(
        name=NAME,
        unit=UNIT,
        role="agent",
        image=own_image(cluster, "serf").ref,
        args=args,
        command=(f"-config-file={TAGS}",),
        config=(CONFIG, env_path(NAME), *(file.path for file in ring_files(context, CONFIG))),
        probe=f"tcp://127.0.0.1:{cluster.serf.rpc_port}",
        start_timeout_s=START_TIMEOUT_S,
        # On SIGTERM it would end as "failed" for its peers, were it not for leave_on_terminate; SIGINT always leaves.
        stop_signal="SIGINT",
        stop_grace_s=STOP_GRACE_S,
        version=own_image(cluster, "serf").ref.rpartition(":")[2],
    )


def _host_conf(context: Context) -> str:
    return render(
        "offers.conf.j2",
        host=context.name,
        join_timeout_s=context.cluster.serf.join_timeout_s,
        drain_timeout_s=context.cluster.longest_drain_s(context.name),
    )


def _unit_file(context: Context, container: Container) -> File:
    cluster = context.cluster
    text = render(
        "fiefdom-serf-agent.service.j2",
        start_limit_s=start_limit_s(container) + cluster.serf.join_timeout_s,
        stop_limit_s=stop_limit_s(container) + cluster.longest_drain_s(context.name),
    )
    return File(f"/etc/systemd/system/{UNIT}", text.encode())
