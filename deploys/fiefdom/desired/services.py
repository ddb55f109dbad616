"""Service instances: one container for each port, owned by a systemd unit; and beside them what runs by the clock."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from fiefdom.desired import jobs, links, mounts, process
from fiefdom.desired.containers import (
    CHECKS_LABEL,
    LINKS_LABEL,
    UNIT_DIR,
    env_file,
    env_path,
    sandbox_args,
    service_image,
    start_limit_s,
    stop_limit_s,
    with_containers,
)
from fiefdom.desired.context import Context
from fiefdom.desired.render import render
from fiefdom.desired.state import Container, File, HostState, Unit
from fiefdom.model import Instance, Service
from fiefdom.model import links as model_links
from fiefdom.model.passthrough import host_path
from fiefdom.model.unit_names import template_of


def desired(context: Context) -> HostState:
    """The host's instances; nothing where it runs none."""
    instances = (_instance(context, i) for i in context.instances)
    return HostState.together([*instances, links.state_of(context), jobs.state_of(context)])


def _instance(context: Context, instance: Instance) -> HostState:
    service = context.cluster.service_on(context.name, instance.service)
    container = _container(context, instance, service)
    files = (
        env_file(container.name, _environment(context, instance, service)),
        _unit_file(context, instance, container),
    )
    image = service_image(context.cluster, instance.service)
    state = HostState(files=files, units=(Unit(instance.unit),), images=(image,))
    if service.volumes or service.files:
        state += mounts.state_of(context, instance, service)
    return with_containers(state, container)


def _environment(context: Context, instance: Instance, service: Service) -> dict[str, str]:
    values = {name: context.secrets.text(value) for name, value in service.environment.items()}
    values |= model_links.environment(context.cluster, instance.service)
    return process.environment(service, values, instance.service, context.name, instance.port)


def _container(context: Context, instance: Instance, service: Service) -> Container:
    limits, health = service.limits, service.health
    address = context.host.address
    args = (
        "--network=bridge",
        f"--publish={address}:{instance.port}:{service.container_port}",
        *_check_args(address, instance, service),
        *((f"--label={LINKS_LABEL}={','.join(service.links)}",) if service.links else ()),
        f"--env-file={env_path(instance.container)}",
        # Process 1 ignores every signal it has no handler for: a service that never heard of SIGTERM would be
        # killed at the end of its grace. docker-init is process 1 instead, passes signals on and reaps orphans.
        "--init",
        *sandbox_args(
            context.cluster,
            memory_mib=limits.memory_mib,
            pids=limits.pids,
            nofile=limits.nofile,
            tmpfs=process.tmpfs(service),
            writable_root=service.writable_root,
            privileges=process.privileges(service),
        ),
        *_given(service),
        f"--cpus={limits.cpus:g}",
        *((f"--user={service.user}",) if service.user else ()),
        *mounts.arguments(instance, service),
    )
    return Container(
        name=instance.container,
        unit=instance.unit,
        role="instance",
        service=instance.service,
        image=context.cluster.image_ref(instance.service),
        args=args,
        command=service.command,
        config=(env_path(instance.container), *(mounts.file_path(instance.container, path) for path in service.files)),
        volumes=tuple(mounts.volume_path(instance, v) for v in service.volumes if v.host is None),
        folders=tuple(v.host for v in service.volumes if v.host is not None),
        devices=tuple(host_path(device) for device in service.devices),
        probe=_probe(address, instance, service),
        probe_command=health.command,
        probe_host=health.host or "",
        probe_status=health.own_status,
        probe_timeout_s=health.timeout_s,
        start_timeout_s=health.start_timeout_s,
        stop_grace_s=service.stop_grace_s,
        version=service.version,
        pauses=context.cluster.pauses(instance.service),
    )


def _probe(address: str, instance: Instance, service: Service) -> str:
    at = f"{address}:{instance.check_port or instance.port}"
    if service.kind == "http":
        speaks_h2 = service.h2c and service.health.base_port is None
        return f"{'h2c' if speaks_h2 else 'http'}://{at}{service.health.path}"
    return "command" if service.health.command else f"connect://{at}"


def _given(service: Service) -> Iterator[str]:
    """Arguments for what its sandbox gives way in."""
    yield from (f"--cap-add={name}" for name in service.capabilities)
    if service.shm_size is not None:
        yield f"--shm-size={service.shm_size}"
    yield from (f"--device={device}" for device in service.devices)
    if service.gpus is not None:
        yield f"--gpus={service.gpus}"
    yield from (f"--add-host={name}:{address}" for name, address in service.extra_hosts.items())


def _check_args(address: str, instance: Instance, service: Service) -> tuple[str, ...]:
    """Arguments for checks on a port of their own; the label tells the plan the port of what runs until a release."""
    if instance.check_port is None:
        return ()
    return (
        f"--publish={address}:{instance.check_port}:{service.health.container_port}",
        f"--label={CHECKS_LABEL}={instance.check_port}",
    )


def _unit_file(context: Context, instance: Instance, container: Container) -> File:
    linked = tuple(i.unit for i in model_links.beside(context.cluster, context.name, instance.service))
    text = _unit_text(instance.service, linked, start_limit_s(container), stop_limit_s(container))
    return File(f"{UNIT_DIR}/{template_of(instance.service)}", text.encode())


@cache  # all instances of a service on a host have the same
def _unit_text(service: str, linked: tuple[str, ...], start_limit_s: int, stop_limit_s: int) -> str:
    limits = {"start_limit_s": start_limit_s, "stop_limit_s": stop_limit_s}
    return render("service@.service.j2", service=service, linked=linked, **limits)
