"""What HAProxy is told: the commands that make it equal to what is wanted, and its configuration text."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from fiefdom_gateway.replies import Actual, State
from fiefdom_gateway.settings import Service
from fiefdom_gateway.wanted import Server


@dataclass(frozen=True)
class Add:
    backend: str
    name: str
    address: str
    port: int
    options: str


@dataclass(frozen=True)
class EnableHealth:
    backend: str
    name: str


@dataclass(frozen=True)
class SetCheckPort:
    backend: str
    name: str
    port: int


@dataclass(frozen=True)
class SetWeight:
    backend: str
    name: str
    weight: int


@dataclass(frozen=True)
class SetState:
    backend: str
    name: str
    state: State


@dataclass(frozen=True)
class Delete:
    backend: str
    name: str


Command = Add | EnableHealth | SetCheckPort | SetWeight | SetState | Delete


def command_error(command: Command, reply: str) -> str | None:
    """Return why HAProxy did not do a command, from its reply; None when it did."""
    answer = " ".join(reply.split())
    welcome = {
        Add: "New server registered.",
        Delete: "Server deleted.",
        SetCheckPort: "health check port updated.",
    }.get(type(command), "")
    return None if answer in (welcome, "") else answer


def must_wait(command: Command, refusal: str) -> bool:
    """Whether a refusal only means that a request is still on its way: look again soon."""
    return isinstance(command, Delete) and "still has connections attached" in refusal


# --- Commands


def next_commands(
    wanted: Iterable[Server], actual: Iterable[Actual], services: Mapping[str, Service]
) -> tuple[Command, ...]:
    """Return what can be done now to bring HAProxy's servers nearer to the wanted ones; nothing when they are equal.

    A server goes in three steps: drain, wait until no request uses it, delete. A step that must wait is left to a later
    call, so nothing blocks. A server that moved goes like any other; its successor of the same name is added after it.
    """
    current = {(server.backend, server.name): server for server in actual}
    kept: set[tuple[str, str]] = set()
    commands: list[Command] = []
    for server in wanted:
        service = services[server.service]
        key = (service.backend, server.name)
        found = current.get(key)
        state = _going(service) if server.drain else State.READY
        if found is None:
            kept.add(key)
            commands += [
                Add(*key, server.address, server.port, _options(server, service)),
                EnableHealth(*key),
                SetState(*key, state),
            ]
        elif (found.address, found.port) == (server.address, server.port):
            kept.add(key)
            if _checks(found) != _checks(server):
                commands.append(SetCheckPort(*key, _checks(server)))
            if not found.checked:
                commands.append(EnableHealth(*key))
            if found.weight != server.weight:
                commands.append(SetWeight(*key, server.weight))
            if found.state is not state:
                commands.append(SetState(*key, state))
    going = {service.backend: _going(service) for service in services.values()}
    for key in sorted(key for key in current.keys() - kept if key[0] in going):
        commands += _removal(current[key], going[key[0]])
    return tuple(commands)


def _checks(server: Server | Actual) -> int:
    return server.check_port or server.port


def _options(server: Server, service: Service) -> str:
    checks = f" port {server.check_port}" if server.check_port else ""
    return service.server_options + checks + (f" weight {server.weight}" if server.weight != 1 else "")


def _going(service: Service) -> State:
    """The state of a server that gets no new requests and finishes those that it has: so do both.

    A drained one goes on to get the requests of clients whose cookie names it, and would never be done.
    """
    return State.MAINT if service.sticky else State.DRAIN


def _removal(server: Actual, going: State) -> list[Command]:
    key = (server.backend, server.name)
    if server.state not in (going, State.MAINT):
        return [SetState(*key, going)]
    if server.busy:
        return []
    # Maintenance closes the idle connections, which a drained server would keep for many seconds.
    return [SetState(*key, State.MAINT), Delete(*key)] if server.state is State.DRAIN else [Delete(*key)]


def backends_to_wait_for(
    wanted: Iterable[Server], actual: Iterable[Actual], services: Mapping[str, Service]
) -> list[str]:
    """Return the backends of which it matters whether a server is busy: one is to go, or to lose what is upgraded."""
    ours = {service.backend for service in services.values()}
    return sorted({server.backend for server in _unready(wanted, actual, services)} & ours)


def stragglers(
    wanted: Iterable[Server], actual: Iterable[Actual], services: Mapping[str, Service]
) -> tuple[Command, ...]:
    """Return what keeps a replaced worker, which serves its open connections on, from servers no longer wanted."""
    ours = {service.backend: _going(service) for service in services.values()}
    return tuple(
        SetState(server.backend, server.name, ours[server.backend])
        for server in _unready(wanted, actual, services)
        if server.backend in ours and server.state is State.READY
    )


def to_close(
    wanted: Iterable[Server], actual: Iterable[Actual], services: Mapping[str, Service]
) -> frozenset[tuple[str, str]]:
    """Return the servers that drain, and whose upgraded connections are not waited for."""
    closing = {service.backend for service in services.values() if service.closes_upgraded}
    if not closing:
        return frozenset()
    unready = _unready(wanted, actual, services)
    return frozenset((s.backend, s.name) for s in unready if s.backend in closing and s.busy)


def _unready(wanted: Iterable[Server], actual: Iterable[Actual], services: Mapping[str, Service]) -> Iterator[Actual]:
    """Yield the servers that are not to get new requests."""
    ready = {(services[s.service].backend, s.name, s.address, s.port) for s in wanted if not s.drain}
    return (s for s in actual if (s.backend, s.name, s.address, s.port) not in ready)


def settled(wanted: Iterable[Server], actual: Iterable[Actual], services: Mapping[str, Service]) -> bool:
    """Whether HAProxy has exactly the wanted servers, in their states."""
    ours = {service.backend for service in services.values()}
    left = {(server.backend, server.name): server for server in actual if server.backend in ours}
    for server in wanted:
        service = services[server.service]
        found = left.pop((service.backend, server.name), None)
        if (
            found is None
            or found.state is not (_going(service) if server.drain else State.READY)
            or (found.port, found.weight) != (server.port, server.weight)
            or (found.address, _checks(found)) != (server.address, _checks(server))
        ):
            return False
    return not left


def weighed(wanted: Iterable[Server], actual: Iterable[Actual], services: Mapping[str, Service]) -> bool:
    """Whether the wanted servers that HAProxy has weigh there what they are to."""
    have = {(s.backend, s.name, s.address, s.port): s.weight for s in actual}
    return all(have.get((services[s.service].backend, s.name, s.address, s.port), s.weight) == s.weight for s in wanted)


def command_line(command: Command) -> str:
    """Return the line for the runtime socket."""
    target = f"{command.backend}/{command.name}"
    match command:
        case Add():
            return f"add server {target} {_endpoint(command.address, command.port)} {command.options}".rstrip()
        case EnableHealth():
            return f"enable health {target}"
        case SetCheckPort():
            return f"set server {target} check-port {command.port}"
        case SetWeight():
            return f"set weight {target} {command.weight}"
        case SetState():
            return f"set server {target} state {command.state.value}"
        case Delete():
            return f"del server {target}"


def _endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


# --- Configuration


def digest(static: str) -> str:
    return hashlib.sha256(static.encode()).hexdigest()


def render(static: str, wanted: Iterable[Server], services: Mapping[str, Service]) -> str:
    """Return the whole configuration: the static part with `server` lines after each service's marker line.

    Servers that drain are left out: a new worker must not send them anything, and the old one finishes with them.
    """
    lines: dict[str, list[str]] = {}
    for server in wanted:
        if not server.drain:
            options = _options(server, services[server.service])
            endpoint = _endpoint(server.address, server.port)
            lines.setdefault(server.service, []).append(f"    server {server.name} {endpoint} {options}".rstrip())

    def servers(match: re.Match[str]) -> str:
        return "\n".join([match[0], *lines.get(match[1], [])])

    note = "# Written by the gateway's reconciler from the static part with sha256"
    # At the end, so that HAProxy's line numbers fit the static part up to the first server.
    return f"{_MARKER.sub(servers, static)}{note} {digest(static)}\n"


_MARKER = re.compile(r"^[ \t]*# fiefdom:servers ([A-Za-z0-9_.-]+)[ \t]*$", re.MULTILINE | re.ASCII)


_BIND = re.compile(r"^[ \t]+bind[ \t]+([0-9.]*|\*):([0-9]{1,5})\b", re.MULTILINE | re.ASCII)


def binds(static: str) -> frozenset[tuple[str, int]]:
    """Return the addresses and ports that the static part listens on; the address is "" for all of the host's."""
    return frozenset((match[1].replace("*", ""), int(match[2])) for match in _BIND.finditer(static))


_NAMES_FILE = re.compile(r"^[ \t]+(bind .* ssl crt-list|http-request return .* file) /", re.MULTILINE)


def names_files(static: str) -> bool:
    """Whether HAProxy reads files besides the static part that may become other ones without another text."""
    return _NAMES_FILE.search(static) is not None


def unplaced(static: str, services: Iterable[str]) -> tuple[str, ...]:
    """Return the services that the static part has no marker line for."""
    return tuple(sorted(set(services) - {match[1] for match in _MARKER.finditer(static)}))
