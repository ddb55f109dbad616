"""HAProxy's words: its replies, the commands that make it equal to what is wanted, its configuration text."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache
from operator import attrgetter

from fiefdom_gateway import tables
from fiefdom_gateway.members import Unreadable
from fiefdom_gateway.settings import Service
from fiefdom_gateway.wanted import Server

# Bits of srv_admin_state and srv_check_state: HAProxy 3.0's management guide at "show servers state".
_ADMIN_MAINT = 0x01 | 0x02 | 0x04 | 0x20
_ADMIN_DRAIN = 0x08 | 0x10
_CHECK_CONFIGURED = 0x02
_CHECK_ENABLED = 0x04
_OPERATIONAL_STOPPED = 0

# HAProxy's own alphabet for names. They come back to it in commands, where ; begins another one.
_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,200}", re.ASCII)


class State(str, Enum):
    READY = "ready"
    DRAIN = "drain"
    MAINT = "maint"


@dataclass(frozen=True, order=True)
class Actual:
    """A server as HAProxy has it. `busy`: a request uses one of its connections at this moment.

    `check_port` is where its health checks ask; 0 for its own port.
    """

    backend: str
    name: str
    address: str
    port: int
    state: State
    up: bool
    checked: bool
    busy: bool
    check_port: int = 0
    weight: int = 1


@dataclass(frozen=True)
class Traffic:
    """What a worker counted for a server since it has it: a reload or a hand-over begins at 0.

    `failures` are connections that were refused and answers that broke off or never came; `retries` are requests that
    were sent again, here or elsewhere. A 500 that made HAProxy ask elsewhere counts as a retry and nowhere else.
    """

    sessions: int = 0
    requests: int = 0
    errors_5xx: int = 0
    failures: int = 0
    retries: int = 0


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


# --- Replies


class Servers:
    """Reads a worker's servers. There may be thousands, and a row that says the same as before is not judged again."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], Actual] = {}
        self.judged = 0

    def read(self, servers_state: str) -> tuple[Actual, ...]:
        """Return the servers in the reply of `show servers state`, none of them busy. Raises Unreadable."""
        known, found = self._known, {}
        for row in tables.spaced(servers_state, _COLUMNS):
            server = known.get(row)
            if server is None:
                server = _server(row)
                self.judged += 1
            found[row] = server
        self._known = found
        return in_order(found.values())


def in_order(servers: Iterable[Actual]) -> tuple[Actual, ...]:
    """Return servers by backend and name."""
    return tuple(sorted(servers, key=_PLACE))


def parse_servers(servers_state: str, servers_conn: str) -> tuple[Actual, ...]:
    """Return the servers in the replies of `show servers state` and `show servers conn`. Raises Unreadable."""
    return with_busy(Servers().read(servers_state), servers_conn)


def with_busy(servers: Iterable[Actual], servers_conn: str) -> tuple[Actual, ...]:
    """Return servers with those marked that the reply of `show servers conn` has busy. Raises Unreadable."""
    used = {
        row[0]
        for row in tables.spaced(servers_conn, ("bkname/svname", "used_cur"))
        if row[1] != "0" and tables.whole(row[1], "used_cur") > 0
    }
    return tuple(replace(s, busy=True) if used and f"{s.backend}/{s.name}" in used else s for s in servers)


def parse_states(servers_state: str) -> Iterator[tuple[str, str, State, bool]]:
    """Yield backend, name, state, and whether it is up, of each server in the reply of `show servers state`.

    Raises Unreadable.
    """
    for backend, name, admin, operational in tables.spaced(servers_state, _COLUMNS[:4]):
        _require_names(backend, name)
        yield backend, name, _state(admin), _is_up(operational)


_COLUMNS = (
    "be_name",
    "srv_name",
    "srv_admin_state",
    "srv_op_state",
    "srv_addr",
    "srv_port",
    "srv_check_port",
    "srv_check_state",
    "srv_uweight",
)


_PLACE = attrgetter("backend", "name")


def _server(row: tuple[str, ...]) -> Actual:
    backend, name, admin, operational, address, port, check_port, check, weight = row
    _require_names(backend, name)
    checks = tables.whole(check, "srv_check_state")
    return Actual(
        backend=backend,
        name=name,
        address=address,
        port=tables.whole(port, "srv_port"),
        state=_state(admin),
        up=_is_up(operational),
        checked=not checks & _CHECK_CONFIGURED or bool(checks & _CHECK_ENABLED),
        busy=False,
        check_port=tables.whole(check_port, "srv_check_port"),
        weight=tables.whole(weight, "srv_uweight"),
    )


def _require_names(backend: str, name: str) -> None:
    if not (_is_name(backend) and _is_name(name)):
        raise Unreadable("HAProxy's reply has a name that no server can have")


@lru_cache(maxsize=32768)
def _is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None


@lru_cache(maxsize=1024)
def _state(admin: str) -> State:
    bits = tables.whole(admin, "srv_admin_state")
    if bits & _ADMIN_MAINT:
        return State.MAINT
    return State.DRAIN if bits & _ADMIN_DRAIN else State.READY


@lru_cache(maxsize=1024)
def _is_up(operational: str) -> bool:
    return tables.whole(operational, "srv_op_state") != _OPERATIONAL_STOPPED


def traffic(stat: str) -> dict[tuple[str, str], Traffic]:
    """Return what the reply of `show stat` counts for each (backend, server); `sessions` are of now, queued ones too.

    Raises Unreadable.
    """
    counted = ("scur", "qcur", "req_tot", "stot", "hrsp_5xx", "econ", "eresp", "wretr")
    return {
        (row[0], row[1]): Traffic(
            sessions=tables.count(row[2]) + tables.count(row[3]),
            requests=tables.count(row[4]) or tables.count(row[5]),
            errors_5xx=tables.count(row[6]),
            failures=tables.count(row[7]) + tables.count(row[8]),
            retries=tables.count(row[9]),
        )
        for row in tables.separated(stat, ("pxname", "svname", *counted))
    }


def parse_open(stat: str) -> dict[tuple[str, str], tuple[int, int]]:
    """Return the open sessions, and all since it came, of each (backend, server) in the reply of `show stat`.

    As `traffic`, and in a third of its time. Raises Unreadable.
    """
    return {
        (backend, name): (tables.count(now) + tables.count(queued), tables.count(requests) or tables.count(sessions))
        for backend, name, now, queued, requests, sessions in tables.separated(
            stat, ("pxname", "svname", "scur", "qcur", "req_tot", "stot")
        )
    }


def takes_connections(stat: str) -> bool:
    """Whether all frontends in the reply of `show stat` take connections. Raises Unreadable."""
    rows = tables.separated(stat, ("svname", "status"))
    return all(status == "OPEN" for name, status in rows if name == "FRONTEND")


def parse_workers(reply: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the pids of the workers of now and of the replaced ones that are not done, from `show proc`."""
    pids: dict[str, list[int]] = {"workers": [], "old workers": []}
    section = ""
    for line in reply.splitlines():
        if line.startswith("# "):
            section = line[2:].strip()
        elif section in pids and (match := re.match(r"([0-9]{1,10})\s+worker\s", line, re.ASCII)):
            pids[section].append(int(match[1]))
    return tuple(pids["workers"]), tuple(pids["old workers"])


def parse_info(reply: str) -> dict[str, str]:
    """Return the `Key: value` lines of `show info`."""
    return {key: value.strip() for key, colon, value in (line.partition(":") for line in reply.splitlines()) if colon}


def reload_error(reply: str) -> str | None:
    """Return why the master's `reload` did not succeed, from its reply; None when it did."""
    first, _, rest = reply.strip().partition("\n")
    return None if first == "Success=1" else config_reasons(rest) or first or "no answer"


def config_reasons(output: str) -> str:
    """Return why HAProxy refused a configuration, from what it printed: without its greetings and summaries."""
    reasons: list[str] = []
    goes_on = False
    for line in output.splitlines():
        # Of a certificate it says what is wrong below the line that it is about.
        if goes_on and line.startswith("  "):
            reasons[-1] = f"{reasons[-1].rstrip(' :')}: {line.strip()}"
            continue
        match = re.fullmatch(r"\[(?:ALERT|WARNING)\]\s*\(\d+\) : (?:config : )?(.*)", line.strip())
        goes_on = match is not None and not re.match(
            r"Error\(s\) found|Fatal errors found|Some warnings were found|Loading failure", match[1]
        )
        if match and goes_on:
            reasons.append(match[1])
    return "; ".join(reasons)


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
