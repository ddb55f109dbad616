"""One picture of a cluster from its hosts' snapshots and its gateways' views."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import pytest

from fiefdom.cluster import status
from fiefdom.cluster.status import InstanceStatus, OfferStatus, Status
from fiefdom.cluster.views import Agent, Config, Refused, Seen, Server, Silent, View, parse_view
from fiefdom.converge import plan
from fiefdom.converge.change import Change
from fiefdom.converge.snapshot import FoundContainer, FoundUnit, Snapshot
from fiefdom.desired import gateway
from fiefdom.errors import FiefdomError
from fiefdom.model import Cluster
from fiefdom.model.answers import Maintenance
from helpers.clock import stopped
from helpers.example import context

# Two gateways and one service: app1 runs four instances of it, app2 two.
CLUSTER: Cluster = context(services={"web": None}, hosts={"app2": {"groups": ["app_hosts"]}}).cluster
NAMES = tuple(CLUSTER.hosts)
INSTANCES = [(name, i.port, i.container) for name in NAMES for i in CLUSTER.instances(name)]
OFFER = "fiefdom-offer-predictor.service"
RUNNING = FoundContainer(True, "sha256:1", "spec", "instance", "1.2.0", True, "facts")


def hosts() -> dict[str, Snapshot]:
    return {
        name: Snapshot(
            0,
            "debian",
            "trixie",
            containers={container: RUNNING for n, _, container in INSTANCES if n == name},
            units={OFFER: FoundUnit("loaded", "active", "exited", says="offered: 4 of 4 instances are healthy")},
            offers={"predictor": "1.2.0;8000-8003"} if name in CLUSTER.app_hosts else {},
        )
        for name in NAMES
    }


def view() -> dict[str, Any]:
    """What a gateway says when all is well."""
    return {
        "serf": {"ok": True, "error": None},
        "config": {"ok": True, "error": None},
        "members": [
            {"name": name, "address": "10.1.0.1", "status": "alive", "offers": [{"service": "predictor"}]}
            for name in NAMES
        ],
        "servers": [
            {"service": "predictor", "name": f"{n}-{port}", "port": port, "state": "up"} for n, port, _ in INSTANCES
        ],
        "rejected": [],
    }


def combined(found: dict[str, Snapshot] | None = None, **sent: dict[str, Any] | str) -> Status:
    """The picture where gateways say this, or what a text says of why they do not."""
    said = {
        name: Silent(what) if isinstance(what, str) else parse_view(json.dumps(what))
        for name, what in {"gw1": view(), "gw2": view(), **sent}.items()
    }
    return status.combine(CLUSTER, NAMES, found or hosts(), said)


def test_a_service_that_is_looked_after_is_told_of() -> None:
    route = CLUSTER.services["predictor"].route
    closed = route.model_copy(update={"maintenance": Maintenance(active=True)})
    service = CLUSTER.services["predictor"].model_copy(update={"route": closed})
    cluster = CLUSTER.model_copy(update={"services": {**CLUSTER.services, "predictor": service}})
    said = {name: parse_view(json.dumps(view())) for name in ("gw1", "gw2")}
    shown = status.combine(cluster, NAMES, hosts(), said)
    mend = "until services.predictor.route.maintenance.active is false"
    assert shown.notices == (f"predictor is looked after: clients get 503, {mend}",)
    assert shown.serving
    shut = {**view(), "maintenance": [{"service": "predictor"}]}
    both = status.combine(cluster, NAMES, hosts(), {**said, "gw2": parse_view(json.dumps(shut))})
    assert both.notices == (
        f"predictor is looked after: clients get 503, {mend}",
        "predictor is switched to maintenance at gw2, and not at gw1: clients get 503; it stays so when "
        "services.predictor.route.maintenance.active is false, until `fiefdom maintenance off INVENTORY predictor`",
    )


@pytest.mark.parametrize(
    ("gateways", "says"),
    [
        ((), ()),
        (
            ("gw1", "gw2"),
            "predictor is switched to maintenance at gw1, gw2: clients get 503; "
            "`fiefdom maintenance off INVENTORY predictor` opens it",
        ),
        (
            ("gw2",),
            "predictor is switched to maintenance at gw2, and not at gw1: clients get 503; "
            "`fiefdom maintenance off INVENTORY predictor` opens it, and `on` closes it there too",
        ),
    ],
)
def test_a_service_that_is_switched_to_maintenance_is_told_of(gateways: tuple[str, ...], says: str) -> None:
    shut = {"maintenance": [{"service": "predictor"}, {"service": "of another inventory"}]}
    shown = combined(**{name: {**view(), **shut} for name in gateways})
    assert shown.notices == ((says,) if says else ())
    assert shown.as_data()["maintenance"] == ({"predictor": list(gateways)} if says else {})
    assert shown.serving, "its instances are up, and no host is kept from a reboot by it"


def test_certificates_are_told_with_how_long_they_last() -> None:
    served = {**view(), "certificates": [{"name": "www", "names": ["www.example.org"], "ends": "2026-03-01T12:00:00Z"}]}
    said = {"gw1": parse_view(json.dumps(served)), "gw2": parse_view(json.dumps(view()))}
    at_s = datetime(2026, 3, 1, 12, tzinfo=timezone.utc).timestamp()

    def shown(days: float) -> Status:
        return status.combine(CLUSTER, NAMES, hosts(), said, now_s=at_s - 86400 * days)

    assert shown(21).certificates == (
        status.CertificateStatus("gw1", "www", ("www.example.org",), "2026-03-01T12:00:00Z", 21),
    )
    assert (shown(21).notices, shown(21).serving) == ((), True)
    mend = "give a new one to gateway.tls.certificates.www, and `fiefdom apply`"
    assert shown(20.9).notices == (f"gw1: the certificate www expires on 2026-03-01, in 20 days; {mend}",)
    assert shown(20.9).serving
    # It keeps clients away, and no host from being taken out of the cluster.
    over = shown(-0.1)
    assert over.notices == (f"gw1: the certificate www has expired on 2026-03-01; {mend}",)
    assert not over.serving and status.degraded(over) == []
    assert json.loads(json.dumps(over.as_data()))["certificates"][0]["days"] == -1


@pytest.mark.parametrize(
    ("row", "notice", "serving"),
    [
        ({"begins": "2026-01-01T00:00:00Z", "ends": "2026-04-01T00:00:00Z", "error": None}, None, True),
        (
            {"begins": "2026-01-01T00:00:00Z", "ends": "2026-04-01T00:00:00Z", "error": "no"},
            "gw1: the certificate for www, which expires on 2026-04-01, in 31 days, could not be renewed: no",
            True,
        ),
        (
            {"begins": "2026-02-27T00:00:00Z", "ends": "2026-02-28T00:00:00Z", "error": "no"},
            "gw1: the certificate for www, which has expired on 2026-02-28, could not be renewed: no",
            False,
        ),
        (
            {"begins": None, "ends": None, "error": "no"},
            "gw1: there is no certificate for www yet: no",
            False,
        ),
        ({"begins": "nonsense", "ends": 7}, None, True),
    ],
)
def test_what_a_gateway_gets_itself_is_told_once_in_its_own_words(row: Any, notice: str | None, serving: bool) -> None:
    ends = row["ends"] if isinstance(row["ends"], str) else "2026-03-02T00:00:00Z"
    own = [{"name": "www", "names": ["www"], "ends": ends}] if row["begins"] else []
    told = parse_view(json.dumps({**view(), "certificates": own, "obtained": [{"name": "www", **row}]}))
    at_s = datetime(2026, 3, 1, tzinfo=timezone.utc).timestamp()
    shown = status.combine(CLUSTER, NAMES, hosts(), {"gw1": told, "gw2": parse_view(json.dumps(view()))}, now_s=at_s)
    if told.obtained:
        assert (shown.notices, shown.serving) == ((notice,) if notice else (), serving)
        assert status.degraded(shown) == []


def server_of(shown: Status, host: str, port: int) -> InstanceStatus:
    return next(i for i in shown.instances if (i.host, i.port) == (host, port))


def test_all_is_well() -> None:
    shown = combined()
    assert shown.serving and shown.problems == ()
    assert [(h.name, h.role, h.member, h.running, h.wanted, h.gateway) for h in shown.hosts] == [
        ("gw1", "gateway", "alive", 0, 0, "serving"),
        ("gw2", "gateway", "alive", 0, 0, "serving"),
        ("app1", "app host", "alive", 4, 4, "-"),
        ("app2", "app host", "alive", 2, 2, "-"),
    ]
    assert shown.instances[0] == InstanceStatus("predictor", "app1", 8000, "1.2.0", "running", ("up", "up"))
    assert json.loads(json.dumps(shown.as_data()))["serving"] is True


def offer(shown: Status, host: str = "app1") -> OfferStatus:
    return next(o for o in shown.offers if o.host == host)


def test_every_service_of_an_app_host_is_an_offer() -> None:
    shown = combined()
    assert shown.offers == tuple(OfferStatus("predictor", host, "1.2.0", "offered") for host in ("app1", "app2"))


@pytest.mark.parametrize(
    ("active", "says", "state", "why"),
    [
        ("inactive", "", "withdrawn", f"{OFFER} is stopped"),
        ("failed", "", "waiting", f"{OFFER} is failed"),
        ("activating", "none of its 4 instances is healthy", "waiting", "none of its 4 instances is healthy"),
    ],
)
def test_an_offer_that_is_not_made_says_why_and_the_cluster_does_not_serve(
    active: str, says: str, state: str, why: str
) -> None:
    found = hosts()
    found["app1"].offers.clear()
    found["app1"].units[OFFER] = FoundUnit("loaded", active, says=says)
    shown = combined(found)
    assert offer(shown) == OfferStatus("predictor", "app1", "-", state, why)
    assert offer(shown, "app2").state == "offered" and not shown.serving


@pytest.mark.parametrize(("active", "says"), [("inactive", "is stopped"), ("failed", "has failed")])
def test_what_no_agent_tells_any_more_is_unheard_whatever_gateways_list(active: str, says: str) -> None:
    found = hosts()
    found["app1"].units["fiefdom-serf-agent.service"] = FoundUnit("loaded", active)
    shown = combined(found)
    why = f"fiefdom-serf-agent.service {says}; `fiefdom apply` starts it"
    assert offer(shown) == OfferStatus("predictor", "app1", "1.2.0", "unheard", why) and not shown.serving
    assert offer(shown, "app2").state == "offered"


def test_an_offer_of_some_instances_says_so_and_is_one() -> None:
    found = hosts()
    says = "offered: 3 of 4 instances are healthy, predictor-8003: answered 403, wanted 200-399"
    found["app1"].units[OFFER] = FoundUnit("loaded", "active", says=says)
    assert offer(combined(found)) == OfferStatus(
        "predictor", "app1", "1.2.0", "offered", says.removeprefix("offered: ")
    )


def test_what_a_gateway_does_not_take_up_is_refused_or_unheard() -> None:
    deaf = view()
    deaf["members"][NAMES.index("app1")]["offers"] = []
    assert offer(combined(gw2=deaf)) == OfferStatus("predictor", "app1", "1.2.0", "unheard", "gw2: does not list it")
    reason = "offers predictor on ports 8000-8003, outside 9000-9099"
    deaf["rejected"] = [{"member": "app1", "reason": reason}]
    assert offer(combined(gw2=deaf)) == OfferStatus("predictor", "app1", "1.2.0", "refused", f"gw2: {reason}")


def test_a_gateway_that_is_down_is_a_problem_and_the_other_one_still_tells() -> None:
    shown = combined(gw1="No such container: gateway")
    assert not shown.serving
    assert shown.problems == ("gw1: the gateway does not answer: No such container: gateway",)
    assert [(h.gateway, h.member) for h in shown.hosts[:2]] == [("down", "alive"), ("serving", "alive")]
    assert shown.instances[0].servers == ("unknown", "up")


def test_a_server_that_one_gateway_lacks_is_out_there() -> None:
    without = view()
    without["servers"] = [s for s in without["servers"] if s["name"] != "app1-8002"]
    shown = combined(gw2=without)
    assert not shown.serving
    assert server_of(shown, "app1", 8002).servers == ("up", "out")
    assert server_of(shown, "app1", 8001).servers == ("up", "up")


def test_a_server_of_another_service_is_not_this_ones() -> None:
    other = view()
    other["servers"][0]["service"] = "web"
    assert combined(gw1=other).instances[0].servers == ("out", "up")


@pytest.mark.parametrize("state", ["drain", "maint", "down"])
def test_a_server_that_takes_no_requests_is_not_serving(state: str) -> None:
    drained = view()
    drained["servers"][0]["state"] = state
    shown = combined(gw1=drained)
    assert not shown.serving and shown.instances[0].servers == (state, "up")


def test_a_member_that_leaves_is_shown_so_and_its_servers_drain() -> None:
    leaving = view()
    leaving["members"][NAMES.index("app2")]["status"] = "leaving"
    for server in leaving["servers"]:
        if server["name"].startswith("app2-"):
            server["state"] = "drain"
    shown = combined(gw1=leaving)
    assert not shown.serving
    assert {h.name: h.member for h in shown.hosts}["app2"] == "leaving"
    assert {i.servers for i in shown.instances if i.host == "app2"} == {("drain", "up")}


def test_a_host_that_no_gateway_knows_is_an_unknown_member() -> None:
    lonely = {**view(), "members": []}
    assert {h.member for h in combined(gw1=lonely, gw2=lonely).hosts} == {"unknown"}


def test_a_rejected_member_is_a_problem() -> None:
    rejecting = {**view(), "rejected": [{"member": "app9", "reason": "is not in the inventory"}]}
    shown = combined(gw2=rejecting)
    assert not shown.serving
    assert shown.problems == ("gw2: refuses member app9: is not in the inventory",)


def test_a_living_member_that_the_inventory_does_not_know_is_told_and_keeps_nothing_from_serving() -> None:
    """Each once, however many gateways list it; not who has left or failed."""
    seen = view()
    seen["members"] += [
        {"name": "app9", "address": "10.1.0.99", "status": "alive"},
        {"name": "app8", "address": "10.1.0.98", "status": "left"},
    ]
    shown = combined(gw1=seen, gw2=seen)
    assert shown.serving and shown.problems == ()
    assert shown.notices == (
        "app9 (10.1.0.99) is a member and no host of the inventory, and gets traffic, as a new host does; add it "
        "there, or stop its agent and then run `fiefdom rotate-key`",
    )


def test_a_gateways_answer_is_what_it_says_less_what_nobody_reads() -> None:
    member = {"name": "app1", "address": "10.1.0.21", "status": "alive"}
    sent = {
        **{"node": "gw1", "serf": {"ok": True, "error": None}, "config": config(error="line 3", **REFUSED_ANEW)},
        "members": [{**member, "offers": [{"service": "predictor"}]}],
        "servers": [{"service": "predictor", "name": "app1-8000", "port": 8000, "state": "up", "requests": 5}],
        "rejected": [{"member": "app9", "reason": "claims the name"}],
    }
    assert parse_view(json.dumps(sent)) == View(
        serf=Agent(True),
        config=Config(False, "line 3", OLD, "1" * 64, True),
        members=(Seen("app1", "10.1.0.21", "alive", frozenset({"predictor"})),),
        servers=(Server("predictor", "app1-8000", 8000, "up", requests=5),),
        rejected=(Refused("app9", "claims the name"),),
    )
    # What an older gateway does not say is not there.
    assert parse_view("{}") == View()


@pytest.mark.parametrize(
    ("part", "row"),
    [
        ("members", {"name": "app1", "address": "10.1.0.21", "status": None}),
        ("members", {"name": "app1", "status": "alive"}),
        ("servers", {"service": "predictor", "name": "app1-8000", "port": True, "state": "up"}),
        ("servers", {"service": "predictor", "name": "app1-8000", "port": "8000", "state": "up"}),
        ("servers", {"service": ["predictor"], "name": "app1-8000", "port": 8000, "state": "up"}),
        ("rejected", {"member": 3, "reason": "claims the name"}),
    ],
)
def test_a_row_that_is_not_whole_is_left_out(part: str, row: dict[str, Any]) -> None:
    whole = view()
    sent = {**whole, part: [row, *whole[part]]}
    assert parse_view(json.dumps(sent)) == parse_view(json.dumps(whole))


def test_what_is_no_number_counts_nothing_and_what_is_not_true_is_not_well() -> None:
    row = {"service": "predictor", "name": "app1-8000", "port": 8000, "state": "up"}
    counted = {"requests": True, "errors_5xx": "5", "failures": 1.5}
    seen = parse_view(json.dumps({"serf": {"ok": 1, "error": 3}, "config": {"ok": "yes"}, "servers": [row | counted]}))
    assert seen == View(servers=(Server("predictor", "app1-8000", 8000, "up"),))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "its answer is not JSON"),
        ("[" * 100_000, "its answer is not JSON"),
        ("[]", "its answer is not an object"),
        ('{"serf": []}', "its answer has no object in serf"),
        ('{"rejected": {}}', "its answer has no list of objects in rejected"),
        ('{"members": ["app1"]}', "its answer has no list of objects in members"),
    ],
)
def test_an_answer_that_is_none_is_told(text: str, words: str) -> None:
    found = parse_view(text)
    assert (found, found.silence) == (Silent(words), words)
    assert found.servers == found.members == found.rejected == ()


def test_what_a_gateway_says_is_one_printable_line() -> None:
    sent = {**view(), "rejected": [{"member": "app9\x1b[2J", "reason": "says\n" + "x" * 1000}]}
    (line,) = combined(gw1=sent).problems
    assert line.startswith("gw1: refuses member app9\\x1b[2J: says xxx")
    assert line.isprintable() and len(line) < 500


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"serf": {"ok": False, "error": "timed out"}}, "gw1: its Serf agent does not answer: timed out"),
        ({"config": {"ok": False, "error": "line 3"}}, "gw1: HAProxy keeps its last good configuration: line 3"),
    ],
)
def test_what_a_gateway_complains_of_is_a_problem(part: dict[str, Any], words: str) -> None:
    shown = combined(gw1={**view(), **part})
    assert not shown.serving and shown.problems == (words,)


def test_containers_that_stopped_or_are_missing_are_not_serving() -> None:
    found = hosts()
    found["app1"].containers["predictor-8000"] = replace(RUNNING, running=False)
    del found["app1"].containers["predictor-8003"]
    shown = combined(found)
    assert not shown.serving
    assert [(i.container, i.version) for i in shown.instances if i.host == "app1"] == [
        ("stopped", "1.2.0"),
        ("running", "1.2.0"),
        ("running", "1.2.0"),
        ("missing", "-"),
    ]
    assert [(h.running, h.wanted) for h in shown.hosts if h.name == "app1"] == [(2, 4)]


def test_without_a_gateway_nothing_is_known_to_serve() -> None:
    shown = status.combine(CLUSTER, ["app1"], hosts(), {})
    assert not shown.serving
    assert [(h.member, h.gateway) for h in shown.hosts] == [("-", "-")]


# --- What a change of the gateways waits for

STATE = gateway.desired(context("gw1"))
NEW = STATE.file(gateway.HAPROXY_CONFIG)
OLD = "0" * 64
REFUSED_ANEW = {"refused": "1" * 64, "retry_in_s": 4.0}


class Views:
    """A session whose gateway shows one view of its configuration after the other, and the last one for ever."""

    def __init__(self, *configs: dict[str, Any] | None) -> None:
        self.answers = [None if c is None else json.dumps({**view(), "config": c}) for c in configs]

    def on_all(self, function: Any, names: Any = None) -> dict[str, Any]:
        return {name: function(name) for name in names}

    def shell(self, *_: Any) -> tuple[bool, str, str]:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return answer is not None, answer or "", "no such container"


def awaited(*configs: dict[str, Any] | None, timeout_s: float = 30.0) -> int:
    """Await the change of a configuration; how many views were not looked at."""
    changed = plan.HostPlan("gw1", (Change("file", "~", NEW.path, "content", NEW),), STATE, Snapshot(0, "", ""))
    hosts = Views(*configs)
    status.await_gateways(plan.Plan((changed,)), hosts, timeout_s)  # type: ignore[arg-type] # all it needs of a Session
    return len(hosts.answers) - 1


def config(digest: str = OLD, error: str | None = None, **more: object) -> dict[str, Any]:
    return {"ok": error is None, "error": error, "digest": digest, **more}


RUNS = config(NEW.digest, refused=None, retry_in_s=None)
BEFORE_REFUSED = config(error="line 3", refused="1" * 64, retry_in_s=None)
REFUSED = config(error="line 7", refused=NEW.digest, retry_in_s=None)
RETRIED = config(error="the port is taken", refused=NEW.digest, retry_in_s=4.0)
# Its reconciler.json has not arrived yet.
UNPLACED = config(NEW.digest, "no line for web", refused=None, retry_in_s=None)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(monkeypatch)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("before", [None, config(), BEFORE_REFUSED, RETRIED, UNPLACED])
def test_what_a_gateway_says_before_it_runs_the_new_configuration_is_waited_out(before: dict[str, Any] | None) -> None:
    assert awaited(before, before, RUNS) == 0


@pytest.mark.usefixtures("impatient")
def test_a_refusal_of_the_new_configuration_ends_the_wait() -> None:
    with pytest.raises(FiefdomError, match=r"^gw1: HAProxy keeps its last good configuration: line 7$"):
        awaited(BEFORE_REFUSED, REFUSED, RUNS)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("shown", "words"),
    [
        (RETRIED, "HAProxy keeps its last good configuration: the port is taken"),
        (BEFORE_REFUSED, "HAProxy keeps its last good configuration: line 3"),
        (config(refused=None, retry_in_s=None), "has not taken its new configuration up; see `fiefdom status`"),
        (None, "has not taken its new configuration up; see `fiefdom status`"),
    ],
)
def test_the_wait_ends_with_what_the_gateway_says_by_then(shown: dict[str, Any] | None, words: str) -> None:
    with pytest.raises(FiefdomError, match=words):
        awaited(shown, timeout_s=0.05)


@pytest.mark.usefixtures("impatient")
def test_an_error_of_an_older_gateway_ends_the_wait() -> None:
    with pytest.raises(FiefdomError, match=r"^gw1: HAProxy keeps its last good configuration: line 3$"):
        awaited(config(error="line 3"), config(NEW.digest))


MOVING = context(
    services={"web": None}, hosts={"app2": {"groups": ["app_hosts"]}}, gateway={"address": "10.1.0.100"}
).cluster


@pytest.mark.parametrize(
    ("having", "serving", "problem"),
    [
        (["gw2"], True, ""),
        ([], False, "10.1.0.100 is at no gateway"),
        (["gw1", "gw2"], False, "10.1.0.100 is at gw1 and gw2 at once"),
    ],
)
def test_one_gateway_has_the_address_of_all(having: list[str], serving: bool, problem: str) -> None:
    found = {name: replace(h, holds="10.1.0.100" if name in having else "") for name, h in hosts().items()}
    views = {name: parse_view(json.dumps(view())) for name in ("gw1", "gw2")}
    shown = status.combine(MOVING, NAMES, found, views)
    assert shown.address == status.AddressStatus("10.1.0.100", tuple(having))
    assert shown.as_data()["address"] == {"address": "10.1.0.100", "holders": tuple(having)}
    assert shown.serving == serving
    assert (problem in "".join(shown.problems)) and len(shown.problems) == bool(problem)


def test_of_one_host_that_is_taken_out_nothing_is_asked() -> None:
    """Neither of its instances and offers, nor, where it is a gateway, of what it says of others."""
    away = hosts()
    away["app1"] = replace(away["app1"], containers={}, offers={})
    found = combined(away)
    assert status.degraded(found, "app1") == []
    assert status.degraded(found, "app2") == status.degraded(found) != []
    silent = combined(gw1="no answer")
    assert status.degraded(silent, "gw1") == []
    for other in ("", "gw2", "app1"):
        assert status.degraded(silent, other)[0] == "gw1: the gateway does not answer: no answer"
    refusing = combined(gw2=view() | {"members": []})
    assert status.degraded(refusing, "gw2") == []
    assert "gw2: does not list it" in status.degraded(refusing, "gw1")[0]


def test_what_is_down_at_the_only_gateway_left_is_no_matter_of_the_one_away() -> None:
    down = view() | {"servers": [server | {"state": "down"} for server in view()["servers"]]}
    found = combined(gw1=down)
    assert status.degraded(found, "gw1") == []
    assert "down at gw1" in status.degraded(found, "gw2")[0]
