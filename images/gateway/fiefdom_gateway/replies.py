"""What HAProxy replies: its servers and what they count, its workers, and why it refused a configuration."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache
from operator import attrgetter

from fiefdom_gateway import tables
from fiefdom_gateway.members import Unreadable

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
