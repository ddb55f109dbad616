"""The Serf agent of an app host: it starts when every instance of the host answers, and leaves before they stop."""

from __future__ import annotations

from fiefdom.desired.containers import (
    UID,
    env_file,
    env_path,
    own_image_ref,
    sandbox_args,
    start_limit_s,
    stop_limit_s,
    with_containers,
)
from fiefdom.desired.context import Context
from fiefdom.desired.membership import agent_file, app_tags, ring_files, rpc_environment
from fiefdom.desired.programs import program
from fiefdom.desired.render import render
from fiefdom.desired.state import Container, Directory, File, HostState, Image, Unit
from fiefdom.model import Instance

NAME = "serf-agent"
UNIT = "serf-agent.service"
CONFIG_DIR = "/etc/fiefdom/serf"
CONFIG = f"{CONFIG_DIR}/agent.json"
STATE_DIR = "/var/lib/fiefdom/serf"
ROTATION_CONF = "/etc/fiefdom/rotation.conf"

# Measured: 12 MB and 8 processes; a leave takes 1.2 to 2 s.
PIDS = 64
NOFILE = 1024
START_TIMEOUT_S = 30
STOP_GRACE_S = 15


def desired(context: Context) -> HostState:
    """The host's agent; nothing where it is no app host."""
    if not context.is_app_host:
        return HostState()
    instances = context.cluster.instances(context.name)
    container = _container(context)
    tags = app_tags(context, instances)
    state = HostState(
        directories=(
            Directory("/etc/fiefdom"),
            Directory(CONFIG_DIR),
            Directory("/var/lib/fiefdom"),
            Directory(STATE_DIR, mode=0o700, uid=UID, gid=UID),
        ),
        files=(
            *ring_files(context, CONFIG),
            agent_file(context, CONFIG, tags=tags, state_dir=STATE_DIR),
            env_file(NAME, rpc_environment(context)),
            _unit_file(context, container, instances),
            File(ROTATION_CONF, _rotation_conf(context).encode()),
            program("rotation"),
        ),
        units=(Unit(UNIT),),
        images=(Image(container.image),),
    )
    return with_containers(state, container)


def _container(context: Context) -> Container:
    cluster = context.cluster
    args = (
        # Gossip's UDP probes break behind a bridge.
        "--network=host",
        f"--env-file={env_path(NAME)}",
        f"--user={UID}:{UID}",
        f"--volume={CONFIG_DIR}:{CONFIG_DIR}:ro",
        f"--volume={STATE_DIR}:{STATE_DIR}",
        *sandbox_args(
            cluster,
            memory_mib=cluster.serf.memory_mib,
            pids=PIDS,
            nofile=NOFILE,
            tmpfs=dict.fromkeys(("/run", "/tmp"), f"size=1m,uid={UID},gid={UID}"),  # noqa: S108
        ),
    )
    return Container(
        name=NAME,
        unit=UNIT,
        role="agent",
        image=own_image_ref(cluster, "serf"),
        args=args,
        config=(CONFIG, env_path(NAME), *(file.path for file in ring_files(context, CONFIG))),
        probe=f"tcp://127.0.0.1:{cluster.serf.rpc_port}",
        start_timeout_s=START_TIMEOUT_S,
        # On SIGTERM it would end as "failed" for its peers, were it not for leave_on_terminate; SIGINT always leaves.
        stop_signal="SIGINT",
        stop_grace_s=STOP_GRACE_S,
        version=own_image_ref(cluster, "serf").rpartition(":")[2],
    )


def _rotation_conf(context: Context) -> str:
    return render(
        "rotation.conf.j2",
        name=context.name,
        join_timeout_s=context.cluster.serf.join_timeout_s,
        drain_timeout_s=context.cluster.drain_timeout_s,
    )


def _unit_file(context: Context, container: Container, instances: tuple[Instance, ...]) -> File:
    services = context.cluster.services
    others_s = sum(services[instance.service].health.start_timeout_s for instance in instances)
    text = render(
        "serf-agent.service.j2",
        instances=instances,
        start_limit_s=start_limit_s(container, others_s) + context.cluster.serf.join_timeout_s,
        stop_limit_s=stop_limit_s(container) + context.cluster.drain_timeout_s,
    )
    return File(f"/etc/systemd/system/{UNIT}", text.encode())
