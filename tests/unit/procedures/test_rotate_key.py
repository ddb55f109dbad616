"""Another gossip key on simulated hosts: no member is ever lost, wherever a run ends, and what is refused."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fiefdom.cluster import audit, keys, ledger, members
from fiefdom.cluster.keys import fingerprints
from fiefdom.converge import carry_out, look
from fiefdom.desired import gateway, serf
from fiefdom.desired.account import UID
from fiefdom.desired.state import HostState, spec_hash
from fiefdom.errors import FiefdomError
from fiefdom.inventory import secret
from fiefdom.procedures import rotate_key
from helpers.clock import stopped
from helpers.example import GOSSIP_KEY, context
from helpers.released import Said, known
from helpers.simulated import BROKEN_OFF, Ring, SimulatedHosts, broken_off, converged, understand

OLD = GOSSIP_KEY
GIVEN = base64.b64encode(bytes(range(32))).decode()
MEMBERS = ("gw1", "gw2", "app1", "app2")


class Died(BaseException):
    """The operator's machine lost power."""


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimulatedHosts:
    stopped(monkeypatch)
    for name in (secret.VARIABLE, secret.NEXT_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "gossip.key"
    path.touch(mode=0o600)
    path.write_text(OLD)
    hosts = converged(known(serf={"key_file": str(path)}, hosts={"app3": None, "app4": None}), tmp_path)
    hosts.watch = lambda name: require_no_member_lost(hosts, name)
    return hosts


def require_no_member_lost(hosts: SimulatedHosts, changed: str) -> None:
    """Whoever runs now, and whoever starts anew now with what is on its disk, understands all the others."""
    now = [ring for ring in (hosts.rings.get(changed), hosts.ring_on_disk(changed)) if ring]
    assert hosts.ring_on_disk(changed), f"{changed} could not start now"
    for name in MEMBERS:
        for ring in filter(None, (hosts.rings.get(name), hosts.ring_on_disk(name))):
            for own in now:
                assert name == changed or understand(own, ring), f"{changed} and {name} do not understand each other"


def rotate(hosts: SimulatedHosts, said: Said | None = None, **options: Any) -> list[str]:
    tell = said if said is not None else []
    asked = {"force": False, "take_over": False} | options
    # Every run begins with what the key's source says now.
    hosts.known = replace(hosts.known, secrets=secret.load(hosts.known.cluster))
    return rotate_key.rotate(hosts.known, hosts, say=lambda *words: tell.append(words), **asked)


def refusal(hosts: SimulatedHosts, **options: Any) -> str:
    with pytest.raises(FiefdomError) as caught:
        rotate(hosts, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def key_file(hosts: SimulatedHosts) -> Path:
    return hosts.known.cluster.path(hosts.known.cluster.serf.key_file or "")


def left(hosts: SimulatedHosts) -> list[tuple[str, str]]:
    """What a plan with the key that is in the file would change."""
    now = replace(hosts.known, secrets=secret.load(hosts.known.cluster))
    return [(h.host, c.name) for h in look.make_plan(now, hosts.names, hosts).hosts for c in h.changes]


def require_rotated(hosts: SimulatedHosts) -> None:
    new = key_file(hosts).read_text().strip()
    assert new != OLD
    assert hosts.rings == dict.fromkeys(MEMBERS, (new,))
    assert [p.name for p in key_file(hosts).parent.iterdir() if "gossip.key" in p.name] == ["gossip.key"]
    assert key_file(hosts).stat().st_mode & 0o777 == 0o600
    assert left(hosts) == []
    for host in hosts.hosts.values():
        assert not [path for path in host.contents if path.endswith("agent-keys.json")]
        assert not any(OLD.encode() in content for content in host.contents.values())


# --- All goes well


@pytest.mark.long
def test_every_member_has_the_new_key_alone_and_a_plan_finds_nothing(hosts: SimulatedHosts) -> None:
    said: Said = []
    assert rotate(hosts, said) == []
    require_rotated(hosts)
    assert [words for words in said if words[1] != "done"] == [(n, what) for what in rotate_key.ROUNDS for n in MEMBERS]
    (act,) = audit.acts(ledger.read(hosts, ("gw1", "gw2")).entries)
    assert (act.what, act.outcome, act.hosts) == ("rotate-key", "ok", MEMBERS)


@pytest.mark.long
def test_one_host_at_a_time_is_out_of_rotation(hosts: SimulatedHosts) -> None:
    turns: list[str] = []
    run = hosts.run

    def look(name: str, *arguments: Any) -> None:
        assert all(understand(hosts.rings[a], hosts.rings[b]) for a in MEMBERS for b in MEMBERS)
        turns.append(name)
        run(name, *arguments)

    hosts.run = look  # type: ignore[method-assign]
    rotate(hosts)
    assert list(dict.fromkeys(turns)) == [*MEMBERS]
    assert {name: turns.count(name) >= 3 for name in MEMBERS} == dict.fromkeys(MEMBERS, True)


@pytest.mark.long
def test_neither_key_shows_in_what_is_said_or_written_down(hosts: SimulatedHosts, tmp_path: Path) -> None:
    said: Said = []
    rotate(hosts, said)
    new = key_file(hosts).read_text().strip()
    ledgers = "".join(p.read_text() for name in ("gw1", "gw2") for p in (tmp_path / name).rglob("*") if p.is_file())
    assert "rotate-key" in ledgers
    for key in (OLD, new):
        assert key not in f"{said}{hosts.log}{hosts.known}{ledgers}"


# --- A run that ends early


@pytest.mark.long
def test_a_run_that_dies_after_every_change_is_gone_on_with(hosts: SimulatedHosts) -> None:
    run, left_to_do = hosts.run, 0

    def once(name: str, *arguments: Any) -> None:
        nonlocal left_to_do
        if not left_to_do:
            raise Died
        left_to_do -= 1
        run(name, *arguments)

    hosts.run = once  # type: ignore[method-assign]
    deaths = 0
    while True:
        left_to_do = 1
        try:
            rotate(hosts)
            break
        except Died:
            deaths += 1
        assert deaths < 200
    assert deaths > 2 * len(MEMBERS)
    require_rotated(hosts)


@pytest.mark.long
@pytest.mark.parametrize("steps", [3, 15, 28, 40, 53, 66, 79, 90])
def test_a_host_that_dies_in_any_step_is_gone_on_with(hosts: SimulatedHosts, steps: int) -> None:
    taken = 0
    watch = hosts.watch

    def count(name: str) -> None:
        nonlocal taken
        watch(name)
        taken += 1
        if taken == steps:
            raise Died

    hosts.watch = count
    with pytest.raises(Died):
        rotate(hosts)
    rotate(hosts)
    require_rotated(hosts)


@pytest.mark.long
def test_what_ended_before_the_key_was_put_in_place_only_puts_it_there(
    hosts: SimulatedHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(_: object) -> list[str]:
        raise FiefdomError("no space")

    with monkeypatch.context() as patched:
        patched.setattr(secret, "adopt_next", no_space)
        assert refusal(hosts) == "no space"
    hosts.log.clear()
    rotate(hosts)
    assert not [line for line in hosts.log if "containers" in line]
    require_rotated(hosts)


def test_a_member_that_does_not_come_back_ends_it_and_the_others_are_left_alone(hosts: SimulatedHosts) -> None:
    shell = hosts.shell

    def app2_is_gone(name: str, argv: Iterable[str]) -> tuple[bool, str, str]:
        ok, text, error = shell(name, list(argv))
        if "members" in argv and any(line.startswith("app1 containers") for line in hosts.log):
            rows = json.loads(text)["members"]
            text = json.dumps({"members": [row for row in rows if row["name"] != "app2"]})
        return ok, text, error

    hosts.shell = app2_is_gone  # type: ignore[method-assign]
    assert refusal(hosts) == (
        "app2: gw1 has it not at all as a member; the key is half way, and `fiefdom rotate-key` goes on from there"
    )
    assert not any(line.startswith("app2 containers") for line in hosts.log)
    assert key_file(hosts).read_text() == OLD
    assert ledger.read(hosts, ("gw1", "gw2")).locks == ()


@pytest.mark.long
def test_the_next_key_is_wanted_from_where_it_was_made(hosts: SimulatedHosts) -> None:
    hosts.run, run = (lambda *_: die(), hosts.run)  # type: ignore[method-assign]
    with pytest.raises(Died):
        rotate(hosts)
    hosts.run = run  # type: ignore[method-assign]
    following = key_file(hosts).with_name("gossip.key.next")
    made = following.read_text()
    # Nothing had happened yet: the same one is taken again.
    rotate_until(hosts, "app1 containers")
    assert following.read_text() == made
    following.unlink()
    assert "gossip.key.next: is missing, though hosts have it already" in refusal(hosts)


def die() -> None:
    raise Died


def rotate_until(hosts: SimulatedHosts, line: str) -> None:
    """A run that dies when this is done."""
    run = hosts.run

    def dies(name: str, *arguments: Any) -> None:
        if line in hosts.log:
            raise Died
        run(name, *arguments)

    hosts.run = dies  # type: ignore[method-assign]
    with pytest.raises(Died):
        rotate(hosts)
    hosts.run = run  # type: ignore[method-assign]


def half_way(hosts: SimulatedHosts) -> None:
    """An earlier run died when it had gone through the first round with gw1, gw2 and app1."""
    rotate_until(hosts, "app1 containers")
    hosts.log.clear()


@pytest.mark.long
def test_one_that_goes_on_refuses_a_stranger_that_has_come_meanwhile(hosts: SimulatedHosts) -> None:
    half_way(hosts)
    hosts.strangers["app9"] = (OLD,)
    assert refusal(hosts).startswith("app9 (10.1.0.99:7946) is a member and no host of the inventory")
    assert not [line for line in hosts.log if "containers" in line]
    rotate(hosts, force=True)
    require_rotated(hosts)


def test_a_stranger_that_comes_between_two_rounds_ends_it(hosts: SimulatedHosts) -> None:
    run = hosts.run

    def late(name: str, *arguments: Any) -> None:
        run(name, *arguments)
        if name == "app2":
            hosts.strangers["app9"] = hosts.rings["app2"]

    hosts.run = late  # type: ignore[method-assign]
    line = refusal(hosts)
    assert line.startswith("app9 (10.1.0.99:7946) is a member") and "the key is half way" in line
    assert [line for line in hosts.log if "gw1 containers" in line] == ["gw1 containers"]


@pytest.mark.long
def test_a_stranger_that_got_the_new_key_is_told_at_the_end(hosts: SimulatedHosts) -> None:
    run = hosts.run

    def learns(name: str, *arguments: Any) -> None:
        run(name, *arguments)
        if name == "app2":
            hosts.strangers["app9"] = hosts.rings["app2"]

    hosts.run = learns  # type: ignore[method-assign]
    assert "app9 (10.1.0.99:7946) is no host of the inventory and still a member, so it has the new key" in refusal(
        hosts, force=True
    )
    assert hosts.rings == dict.fromkeys(MEMBERS, (key_file(hosts).read_text().strip(),))


@pytest.mark.long
def test_one_that_goes_on_waits_for_all_others_first(hosts: SimulatedHosts) -> None:
    half_way(hosts)
    hosts.views["gw1"] = "it is on fire"
    assert "does not serve again: gw1" in refusal(hosts)
    del hosts.views["gw1"]
    del hosts.rings["app1"]
    assert refusal(hosts).startswith("app1: gw1 has it not at all as a member")
    assert not [line for line in hosts.log if "containers" in line]


@pytest.mark.long
def test_one_that_goes_on_leaves_all_else_to_an_apply(hosts: SimulatedHosts) -> None:
    half_way(hosts)
    hosts.hosts["app2"].remove_block("/etc/hosts")
    hosts.hosts["gw1"].contents.pop(gateway.HAPROXY_CONFIG)
    hosts.hosts["gw1"].now.files.pop(gateway.HAPROXY_CONFIG)
    rotate(hosts)
    assert sorted(left(hosts)) == [("app2", "/etc/hosts"), ("gw1", gateway.HAPROXY_CONFIG)]
    assert hosts.rings == dict.fromkeys(MEMBERS, (key_file(hosts).read_text().strip(),))


@pytest.mark.long
def test_a_round_that_a_host_did_not_go_through_is_the_last(hosts: SimulatedHosts) -> None:
    half_way(hosts)
    hosts.hosts["app2"].now = replace(hosts.hosts["app2"].now, docker="down")
    assert "app2: its agent has other keys than it was given" in refusal(hosts, force=True)
    assert {len(ring) for ring in hosts.rings.values()} == {1, 2}


# --- What is refused


def test_a_degraded_cluster_is_refused(hosts: SimulatedHosts) -> None:
    hosts.hosts["app2"].containers("stop", "fiefdom-predictor@8001.service")
    assert "app2: another change is pending, container predictor-8001" in refusal(hosts)
    hosts.views["gw2"] = "it is on fire"
    hosts.hosts["app2"].containers("start", "fiefdom-predictor@8001.service")
    assert "the cluster is degraded: gw2: the gateway does not answer" in refusal(hosts)
    assert set(hosts.rings.values()) == {(OLD,)}
    assert not key_file(hosts).with_name("gossip.key.next").exists()


@pytest.mark.long
def test_a_service_that_runs_on_one_host_is_refused_unless_forced(hosts: SimulatedHosts) -> None:
    cluster = hosts.known.cluster
    app2 = cluster.hosts["app2"]
    none = {"predictor": app2.services["predictor"].model_copy(update={"instances": 0})}
    others = cluster.hosts | {"app2": app2.model_copy(update={"services": app2.services | none})}
    hosts.known = replace(hosts.known, cluster=cluster.model_copy(update={"hosts": others}))
    converge_all(hosts)
    assert "predictor runs on app1 only" in refusal(hosts)
    rotate(hosts, force=True)
    require_rotated(hosts)


def converge_all(hosts: SimulatedHosts) -> None:
    watch, hosts.watch = hosts.watch, lambda _: None
    for _ in ("turns", "ports that nobody has any more"):
        wanted = look.make_plan(hosts.known, hosts.names, hosts)
        carry_out.carry_out(wanted, hosts, hosts.known.cluster, lambda *_: None)
    hosts.watch = watch


@pytest.mark.long
def test_a_host_with_a_foreign_key_is_refused(hosts: SimulatedHosts) -> None:
    contents = hosts.hosts["app2"].contents
    path = "/etc/fiefdom/serf/agent.json"
    contents[path] = contents[path].replace(OLD.encode(), GIVEN.encode())
    assert refusal(hosts, force=True).startswith("app2: holds a gossip key that is neither the present nor the next")
    del contents[path]
    assert refusal(hosts, force=True).startswith("app2: has no Serf agent")
    assert not key_file(hosts).with_name("gossip.key.next").exists()


# --- Strangers


@pytest.mark.long
def test_a_stranger_that_is_alive_is_refused_and_left_out_where_forced(hosts: SimulatedHosts) -> None:
    hosts.strangers["app9"] = (OLD,)
    assert refusal(hosts).startswith("app9 (10.1.0.99:7946) is a member and no host of the inventory")
    rotate(hosts, force=True)
    assert "gw1 force-leave -prune app9" in hosts.log
    assert hosts.strangers == {}
    require_rotated(hosts)


def test_apply_forgets_who_is_gone_and_nobody_else(hosts: SimulatedHosts) -> None:
    hosts.strangers = {"app9": (GIVEN,), "-rpc-addr=10.6.6.6:1": (GIVEN,)}
    assert members.forget_gone(hosts.known.cluster, hosts) == ["app9"]
    assert sorted(hosts.strangers) == ["-rpc-addr=10.6.6.6:1"]
    assert [line for line in hosts.log if "force-leave" in line] == ["gw1 force-leave -prune app9"]


@pytest.mark.parametrize(("only", "fate"), [(False, "traffic, as a new host does"), (True, "no traffic")])
def test_apply_names_who_is_alive_when_the_others_are_forgotten(hosts: SimulatedHosts, only: bool, fate: str) -> None:
    hosts.strangers = {"app7": (OLD,), "app8": (OLD,), "app9": (GIVEN,)}
    cluster = hosts.known.cluster
    cluster = cluster.model_copy(update={"gateway": cluster.gateway.model_copy(update={"known_hosts_only": only})})
    with pytest.raises(FiefdomError) as caught:
        members.forget_gone(cluster, hosts)
    assert sorted(hosts.strangers) == ["app7", "app8"]
    mend = "add it there, or stop its agent and then run `fiefdom rotate-key`"
    assert str(caught.value) == "; ".join(
        f"{name} (10.1.0.99:7946) is a member and no host of the inventory, and gets {fate}; {mend}"
        for name in ("app7", "app8")
    )


@pytest.mark.parametrize("answer", ["", "[]", "{}", '{"members": 3}', '{"members": [{}]}', '{"members": ["x"]}'])
def test_what_is_no_list_of_members_is_told(hosts: SimulatedHosts, answer: str) -> None:
    hosts.shell = lambda *_: (True, answer, "")  # type: ignore[method-assign]
    with pytest.raises(FiefdomError, match=r"^gw1: its Serf agent does not answer with a list of members$"):
        members.members(hosts, "gw1")


def test_a_host_that_a_gateway_goes_on_refusing_is_told(hosts: SimulatedHosts) -> None:
    cluster = hosts.known.cluster
    members.require_believed(cluster, hosts, MEMBERS)
    rows = [{"member": name, "reason": "offers web, which the inventory does not let it run"} for name in ("x", "app1")]
    hosts.views |= {"gw1": BROKEN_OFF, "gw2": {"rejected": rows}}
    members.require_believed(cluster, hosts, ["app2"])
    with pytest.raises(FiefdomError) as caught:
        members.require_believed(cluster, hosts, ["app1"])
    assert str(caught.value) == (
        "app1: refused by gw2: offers web, which the inventory does not let it run; apply the gateways too"
    )
    with pytest.raises(FiefdomError, match=r"see `fiefdom status`$"):
        members.require_believed(cluster, hosts, MEMBERS)


def test_a_gateway_that_believes_after_a_moment_is_waited_for(
    hosts: SimulatedHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts.views["gw2"] = {"rejected": [{"member": "app1", "reason": "claims the name"}]}
    stopped(monkeypatch, hosts.views.clear)
    members.require_believed(hosts.known.cluster, hosts, MEMBERS)


# --- Where the key comes from


@pytest.mark.long
def test_a_key_from_elsewhere_gives_way_to_one_that_is_given(
    hosts: SimulatedHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(secret.VARIABLE, OLD)
    assert refusal(hosts).startswith(
        "FIEFDOM_NEXT_GOSSIP_KEY: is not set; the present key comes from FIEFDOM_GOSSIP_KEY"
    )
    monkeypatch.setenv(secret.NEXT_VARIABLE, OLD)
    assert refusal(hosts).startswith("FIEFDOM_NEXT_GOSSIP_KEY: is the present key")
    monkeypatch.setenv(secret.NEXT_VARIABLE, "short")
    assert refusal(hosts).startswith("FIEFDOM_NEXT_GOSSIP_KEY: the gossip key is not base64")
    monkeypatch.setenv(secret.NEXT_VARIABLE, GIVEN)
    for _ in range(2):  # the second run finds all done, and says again what is left
        (line,) = rotate(hosts)
        assert line.startswith("Give FIEFDOM_GOSSIP_KEY the key of FIEFDOM_NEXT_GOSSIP_KEY now")
    assert hosts.rings == dict.fromkeys(MEMBERS, (GIVEN,))
    assert key_file(hosts).read_text() == OLD
    monkeypatch.setenv(secret.VARIABLE, GIVEN)
    assert left(hosts) == []


def test_the_next_key_is_private_and_made_once(hosts: SimulatedHosts) -> None:
    cluster = hosts.known.cluster
    with pytest.raises(FiefdomError, match="is missing"):
        secret.next_key(cluster, make=False, environ={})
    key = secret.next_key(cluster, make=True, environ={})
    following = key_file(hosts).with_name("gossip.key.next")
    assert following.stat().st_mode & 0o777 == 0o600
    assert secret.next_key(cluster, make=True, environ={}) == key
    following.chmod(0o644)
    with pytest.raises(FiefdomError, match=r"others may read this gossip key"):
        secret.next_key(cluster, make=True, environ={})


def test_a_link_to_the_key_stays_a_link(hosts: SimulatedHosts) -> None:
    path = key_file(hosts)
    target = path.rename(path.with_name("kept-elsewhere"))
    path.symlink_to(target)
    key = secret.next_key(hosts.known.cluster, make=True, environ={})
    assert secret.adopt_next(hosts.known.cluster, {}) == []
    assert path.is_symlink() and target.read_text().strip() == key


def test_a_key_that_cannot_be_put_in_place_is_one_line(hosts: SimulatedHosts) -> None:
    with pytest.raises(FiefdomError, match=r"gossip\.key: cannot be replaced by gossip\.key\.next"):
        secret.adopt_next(hosts.known.cluster, {})


# --- apply with another key


def require_same(hosts: Any, key: str) -> None:
    other = replace(hosts.known, secrets=replace(hosts.known.secrets, gossip_key=key))
    if keys.touches_keys(look.make_plan(other, hosts.names, hosts).due.hosts):
        keys.require_same_key(other, hosts)


class Limited:
    """A session with some hosts, and the gateways besides."""

    def __init__(self, hosts: SimulatedHosts, *names: str) -> None:
        self.names, self.hosts = names, hosts

    def __getattr__(self, name: str) -> Any:
        return getattr(self.hosts, name)


def give(hosts: SimulatedHosts, key: str, *names: str) -> None:
    """Let hosts have another key alone, or none."""
    for name in names:
        path = gateway.AGENT_CONFIG if name.startswith("gw") else serf.CONFIG
        contents = hosts.hosts[name].contents
        if key:
            contents[path] = contents[path].replace(OLD.encode(), key.encode())
        else:
            del contents[path]


def test_apply_with_another_key_is_refused(hosts: SimulatedHosts) -> None:
    require_same(hosts, OLD)
    with pytest.raises(FiefdomError, match=r"^gw1, gw2, app1, .*: the gossip key there is not this machine's"):
        require_same(hosts, GIVEN)


@pytest.mark.long
@pytest.mark.parametrize("number", [0, 1, 2])
def test_apply_while_a_key_is_half_way_is_refused(hosts: SimulatedHosts, number: int) -> None:
    rotate_until_round(hosts, number)
    new = key_file(hosts).with_name("gossip.key.next").read_text().strip()
    for key in (OLD, new):
        with pytest.raises(FiefdomError, match=r"another gossip key is on its way"):
            require_same(hosts, key)
        # A host that the rotation has not come to yet has nothing but the old key; the gateways tell.
        known = replace(hosts.known, secrets=replace(hosts.known.secrets, gossip_key=key))
        with pytest.raises(FiefdomError, match=rf"^{'app2' if number else 'gw1'}: another gossip key is on its way"):
            keys.require_same_key(known, Limited(hosts, "app2"))


@pytest.mark.parametrize(
    ("asked", "foreign", "without", "may"),
    [
        (MEMBERS, [], MEMBERS, True),  # a first converge
        (MEMBERS, ["app1"], [], True),
        (MEMBERS, ["gw1"], [], True),
        (["app1"], ["app1"], [], True),
        (["app1"], ["app1"], ["gw1"], True),
        (["app1"], [], ["app1"], True),
        # The key here is the one that a rotation took away.
        (MEMBERS, ["gw1", "gw2", "app1"], [], False),
        (MEMBERS, ["gw1", "gw2", "app1"], ["app2"], False),
        (MEMBERS, ["gw1", "app1", "app2"], [], False),
        (["app1"], ["gw1", "gw2", "app2"], [], False),
        (["app1"], ["gw1", "gw2", "app2"], ["app1"], False),
        (["gw1"], ["gw1"], [], False),  # of two gateways nobody knows which one is right
    ],
)
def test_only_a_host_that_drifted_is_given_this_machines_key(
    hosts: SimulatedHosts, asked: Sequence[str], foreign: Sequence[str], without: Sequence[str], may: bool
) -> None:
    give(hosts, GIVEN, *foreign)
    give(hosts, "", *without)
    session: Any = Limited(hosts, *asked)
    if may:
        keys.require_same_key(hosts.known, session)
    else:
        with pytest.raises(FiefdomError, match="the gossip key there is not this machine's"):
            keys.require_same_key(hosts.known, session)


def test_a_gateway_that_is_down_does_not_keep_an_app_host_from_its_mend(hosts: SimulatedHosts) -> None:
    give(hosts, GIVEN, "app1")
    script = hosts.script

    def down(name: str, *arguments: Any, **more: Any) -> tuple[bool, str, str]:
        if name == "gw1":
            raise broken_off(name, "not connected")
        return script(name, *arguments, **more)

    hosts.script = down  # type: ignore[method-assign]
    keys.require_same_key(hosts.known, Limited(hosts, "app1"))


def test_a_plan_for_a_new_host_is_looked_at_and_one_of_something_else_is_not(hosts: SimulatedHosts) -> None:
    assert not keys.touches_keys(look.make_plan(hosts.known, ["app1"], hosts).hosts)
    hosts.hosts["app1"].remove_file(serf.CONFIG)
    assert keys.touches_keys(look.make_plan(hosts.known, ["app1"], hosts).hosts)


def rotate_until_round(hosts: SimulatedHosts, number: int) -> None:
    """A run that dies when gw1 alone has gone through the round after so many whole ones."""
    run, seen = hosts.run, 0

    def dies(name: str, phase: Any) -> None:
        nonlocal seen
        seen += name == "gw1" and phase.name == "containers"
        if name == "gw2" and seen > number:
            raise Died
        run(name, phase)

    hosts.run = dies  # type: ignore[method-assign]
    with pytest.raises(Died):
        rotate(hosts)
    hosts.run = run  # type: ignore[method-assign]


def test_one_host_with_a_key_of_its_own_is_drift_and_may_be_mended(hosts: SimulatedHosts) -> None:
    host = hosts.hosts["app2"]
    path = "/etc/fiefdom/serf/agent.json"
    host.contents[path] = host.contents[path].replace(OLD.encode(), GIVEN.encode())
    host.now.files[path] = replace(host.now.files[path], digest="0" * 64)
    require_same(hosts, OLD)


# --- What an agent is given


def state(role: Any, host: str, ring: Sequence[str]) -> HostState:
    at = context(host)
    secrets = replace(at.secrets, gossip_key=ring[0], other_gossip_keys=tuple(ring[1:]))
    made: HostState = role.desired(replace(at, secrets=secrets))
    return made


@pytest.mark.parametrize(
    ("role", "host", "path"), [(serf, "app1", serf.CONFIG), (gateway, "gw1", gateway.AGENT_CONFIG)]
)
def test_each_ring_makes_the_container_another_one(role: Any, host: str, path: str) -> None:
    states = [state(role, host, ring) for ring in rotate_key.rings(OLD, GIVEN)]
    assert len({spec_hash(s.containers[0], s) for s in states}) == 4
    for s, ring in zip(states, rotate_key.rings(OLD, GIVEN), strict=True):
        config = json.loads(s.file(path).content)
        # Serf refuses to start with both.
        assert ("encrypt_key" in config) != ("keyring_file" in config)
        if len(ring) == 1:
            assert config["encrypt_key"] == ring[0]
            continue
        file = s.file(config["keyring_file"])
        assert json.loads(file.content) == list(ring)
        assert (file.mode, file.uid, file.gid, file.secret, file.serves) == (0o400, UID, UID, True, True)
        # Files are put in place by their names: the keys are there before the configuration names them.
        assert file.path < path


def test_neighbouring_rings_understand_each_other_and_others_do_not() -> None:
    steps: tuple[Ring, ...] = rotate_key.rings("old", "new")
    assert [[understand(a, b) for b in steps] for a in steps] == [[abs(i - j) <= 1 for j in range(4)] for i in range(4)]


def test_a_fingerprint_is_no_key() -> None:
    (found,) = fingerprints((OLD,))
    assert len(found) == 64 and OLD not in found
