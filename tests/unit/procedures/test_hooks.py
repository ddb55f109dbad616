"""Hooks of the operator's own: when they run, what they are told, and what their failures change."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from fiefdom.cluster import audit, ledger, locking
from fiefdom.converge import look
from fiefdom.errors import FiefdomError
from fiefdom.model import SecretSource
from fiefdom.procedures import hooks as hooks_module
from fiefdom.procedures import rollout, webhook
from fiefdom.procedures.release import Order
from fiefdom.procedures.rollout import Report, Wish
from helpers.clock import Clock, stopped
from helpers.released import APPS, NEW, OLD, Said, known
from helpers.simulated import SimulatedHosts, Trouble, converged

SCRIPT = """#!/bin/sh
echo "says $FIEFDOM_EVENT"
{ env | grep '^FIEFDOM_' | sort; echo; } >>told
[ "$FIEFDOM_EVENT" != "$(cat fails 2>/dev/null)" ] || { echo "no $FIEFDOM_EVENT" >&2; exit 3; }
"""
HOOKS = dict.fromkeys(("before", "after", "failed"), "hook")
CHAT = "https://chat.example.org/hooks/swordfish"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return stopped(monkeypatch)


@dataclass
class Told:
    """A folder with the program of all three events, and what it was told."""

    folder: Path

    def fails(self, event: str) -> None:
        (self.folder / "fails").write_text(event)

    @property
    def all(self) -> list[dict[str, str]]:
        path = self.folder / "told"
        blocks = path.read_text().split("\n\n")[:-1] if path.exists() else []
        return [dict(line.split("=", 1) for line in block.splitlines()) for block in blocks]  # type: ignore[misc]

    @property
    def events(self) -> list[str]:
        return [found["FIEFDOM_EVENT"] for found in self.all]


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    monkeypatch.setattr(ledger, "operator", lambda: "ann@desk")
    folder = tmp_path / "inventory"
    folder.mkdir()
    (folder / "hook").write_text(SCRIPT)
    (folder / "hook").chmod(0o755)
    return Told(folder)


@pytest.fixture
def hosts(tmp_path: Path, clock: Clock, told: Told) -> SimulatedHosts:
    """Hosts on the old version, whose inventory names the new one, and hooks."""
    found = converged(known(), tmp_path / "hosts")
    found.known = known(NEW, hooks=HOOKS, base_dir=str(told.folder))
    return found


@pytest.fixture
def chat(hosts: SimulatedHosts, told: Told, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """A chat that is told of everything."""
    return tells(hosts, told, monkeypatch)


def tells(
    hosts: SimulatedHosts, told: Told, monkeypatch: pytest.MonkeyPatch, why: str = "", **notify: Any
) -> list[tuple[str, dict[str, Any]]]:
    heard: list[tuple[str, dict[str, Any]]] = []

    def post(url: str, document: dict[str, Any]) -> str:
        heard.append((url, document))
        return why

    monkeypatch.setattr(webhook, "post", post)
    hosts.known = known(NEW, hooks=HOOKS, base_dir=str(told.folder), notify={"webhook": CHAT, **notify})
    return heard


def perform(hosts: SimulatedHosts, say: Callable[[str, str], object] = lambda *_: None, **wish: Any) -> Report:
    wish.setdefault("order", Order())
    wanted = rollout.prepare(hosts.known, hosts, frozenset({"predictor"}), Wish(**wish))
    return rollout.perform(hosts.known, hosts, wanted, Wish(**wish), lambda *words: (say(*words), None)[1])


def acts(hosts: SimulatedHosts) -> list[tuple[str, str]]:
    found = audit.acts(ledger.read(hosts, hosts.known.gateways, 1000).entries)
    return [(act.what, act.outcome) for act in found if act.what not in ("lock", "unlock")]


def locks(hosts: SimulatedHosts) -> list[str]:
    return [lock.why for lock in ledger.read(hosts, hosts.known.gateways, 0).locks]


def test_they_run_around_a_release_and_are_told_of_it(hosts: SimulatedHosts, told: Told, clock: Clock) -> None:
    said: Said = []
    seen: list[tuple[str, int, bool]] = []

    def say(who: str, what: str) -> None:
        said.append((who, what))
        if who == "hook" and what in HOOKS:
            at_work = sum(line.endswith((" images", " turn")) for line in hosts.log)
            seen.append((what, at_work, bool(locks(hosts))))

    report = perform(hosts, say)
    assert report.error is None
    (before, none_yet, is_locked), (after, _, is_locked_still) = seen
    assert (before, none_yet, is_locked) == ("before", 0, True), "under the lock, before anything is changed"
    assert (after, is_locked_still) == ("after", False), "which may take long, and begin another command"
    assert [what for who, what in said if who == "hook"] == [
        "before",
        "before: says before",
        "after",
        "after: says after",
    ]
    common = {
        "FIEFDOM_ACT": "rollout",
        "FIEFDOM_CLUSTER": "example",
        "FIEFDOM_ERROR": "",
        "FIEFDOM_HOSTS": " ".join(APPS),
        "FIEFDOM_PREVIOUS": OLD,
        "FIEFDOM_SERVICE": "predictor",
        "FIEFDOM_VERSION": NEW,
        "FIEFDOM_WAITING": "",
        "FIEFDOM_WHO": "ann@desk",
    }
    first, last = told.all
    assert first == {**common, "FIEFDOM_EVENT": "before", "FIEFDOM_DURATION_S": "0"}
    took_s = float(last.pop("FIEFDOM_DURATION_S"))
    assert last == {**common, "FIEFDOM_EVENT": "after"} and 0 < took_s <= clock.passed_s + 1


def test_nothing_is_changed_where_the_one_before_fails(hosts: SimulatedHosts, told: Told) -> None:
    told.fails("before")
    with pytest.raises(FiefdomError) as caught:
        perform(hosts)
    assert str(caught.value) == "hooks.before: hook ended with exit code 3; no host was changed"
    assert caught.value.log == ("says before", "no before") and not caught.value.recorded
    assert not any(line.endswith((" images", " turn")) for line in hosts.log)
    assert acts(hosts) == [] and locks(hosts) == [], "a version that was not tried is none that failed"
    assert told.events == ["before", "failed"]
    assert told.all[-1]["FIEFDOM_ERROR"] == str(caught.value)


def test_what_ends_it_is_told(hosts: SimulatedHosts, told: Told) -> None:
    hosts.trouble["app2"] = Trouble("fail", 3)
    report = perform(hosts)
    assert report.error is not None and acts(hosts) == [("rollout", "failed")]
    assert told.events == ["before", "failed"]
    assert told.all[-1]["FIEFDOM_ERROR"] == str(report.error) != ""


def test_an_interrupt_is_a_failure(hosts: SimulatedHosts, told: Told) -> None:
    def interrupt(who: str, what: str) -> None:
        if (who, what) == ("app2", "replace"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        perform(hosts, interrupt)
    assert told.events == ["before", "failed"] and told.all[-1]["FIEFDOM_ERROR"] == "interrupted"
    assert acts(hosts) == [("rollout", "interrupted")] and locks(hosts) == []


def test_so_is_one_of_the_hook_before(hosts: SimulatedHosts, told: Told) -> None:
    def interrupt(who: str, what: str) -> None:
        if (who, what) == ("hook", "before: says before"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        perform(hosts, interrupt)
    assert told.events[-1] == "failed" and acts(hosts) == [] and locks(hosts) == []


@pytest.mark.parametrize("at", [("app1", "done"), ("hook", "before: says before")], ids=["later", "meanwhile"])
def test_a_lock_that_is_lost_is_a_failure(hosts: SimulatedHosts, told: Told, at: tuple[str, str]) -> None:
    def lose(who: str, what: str) -> None:
        if (who, what) == at:
            for gateway in ("gw1", "gw2"):
                for path in (hosts.root / gateway).iterdir():
                    if path.name.startswith("lock") and path.is_file():
                        path.unlink()

    with pytest.raises(FiefdomError, match="lock was removed meanwhile"):
        perform(hosts, lose)
    assert told.events == ["before", "failed"]
    if at[0] == "hook":
        assert not any(line.endswith((" images", " turn")) for line in hosts.log) and acts(hosts) == []
    assert told.all[-1]["FIEFDOM_ERROR"].endswith("this run's lock was removed meanwhile; nothing more is changed")


def test_what_is_refused_runs_none(hosts: SimulatedHosts, told: Told) -> None:
    locking.lock(hosts, hosts.known.gateways, "bob@desk", "a holiday", lambda _: None)
    with pytest.raises(FiefdomError, match="bob@desk"):
        perform(hosts)
    assert told.events == []


@pytest.mark.parametrize("event", ["after", "failed"])
def test_a_failure_of_the_others_is_told_and_changes_nothing(hosts: SimulatedHosts, told: Told, event: str) -> None:
    told.fails(event)
    if event == "failed":
        hosts.trouble["app2"] = Trouble("fail", 3)
    said: Said = []
    report = perform(hosts, lambda *words: said.append(words))  # type: ignore[arg-type]
    assert (report.error is None) == (event == "after")
    assert said[-1] == ("hook", f"hooks.{event}: hook ended with exit code 3; the rollout stays as it is")


@pytest.mark.parametrize("event", ["after", "failed"])
def test_who_does_not_want_to_wait_for_them_has_what_was_done(hosts: SimulatedHosts, told: Told, event: str) -> None:
    if event == "failed":
        hosts.trouble["app2"] = Trouble("fail", 3)
    said: Said = []

    def interrupt(who: str, what: str) -> None:
        said.append((who, what))
        if what == f"{event}: says {event}":
            raise KeyboardInterrupt

    report = perform(hosts, interrupt)
    assert (report.error is None) == (event == "after")
    assert said[-1] == ("hook", f"{event}: interrupted; the rollout stays as it is")


def test_a_canary_waits_under_its_lock_already(hosts: SimulatedHosts, told: Told) -> None:
    seen: list[list[str]] = []

    def say(who: str, what: str) -> None:
        if (who, what) == ("hook", "after"):
            seen.append(locks(hosts))

    perform(hosts, say, order=Order(canary="app2"))
    (found,) = seen
    assert found and all("canary" in why for why in found)
    assert (told.all[-1]["FIEFDOM_HOSTS"], told.all[-1]["FIEFDOM_WAITING"]) == ("app2", "app1 app3 app4")


# --- The other acts


EVERYBODY = ("gw1", "gw2", *APPS)
OTHERS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    "apply": (("--yes",), APPS, "after"),
    "reboot": (("--limit", "app2"), ("app2",), "failed"),  # for a simulated host is not back
    "retire": (("app4", "--yes"), ("app4",), "after"),
    "rotate-key": (("--yes",), EVERYBODY, "after"),
}


def other(hosts: SimulatedHosts, told: Told, monkeypatch: pytest.MonkeyPatch, act: str, **hooks: Any) -> None:
    """Let there be something to do for ``act``."""
    monkeypatch.setenv("FIEFDOM_NEXT_GOSSIP_KEY", base64.b64encode(b"n" * 32).decode())
    monkeypatch.setattr("fiefdom.inventory.secret._key_path", lambda *_: None)
    more = {"serf": {"memory_mib": 96}} if act == "apply" else {}
    hosts.known = known(OLD, hooks=HOOKS | hooks, base_dir=str(told.folder), **more)


@pytest.mark.parametrize("act", OTHERS)
def test_around_other_acts_they_run_where_it_says_so(
    hosts: SimulatedHosts, told: Told, command: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    words, on, event = OTHERS[act]
    other(hosts, told, monkeypatch, act, acts=[act])
    done = command(act, *words)
    assert told.events == ["before", event] and done.exit_code == (event == "failed"), done.output
    found = {name: {block[name] for block in told.all} for name in told.all[0]}
    assert (found["FIEFDOM_ACT"], found["FIEFDOM_HOSTS"], found["FIEFDOM_SERVICE"]) == ({act}, {" ".join(on)}, {""})


@pytest.mark.parametrize("act", OTHERS)
def test_around_other_acts_they_run_only_there(
    hosts: SimulatedHosts, told: Told, command: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    other(hosts, told, monkeypatch, act)
    command(act, *OTHERS[act][0])
    assert told.events == []


@pytest.mark.parametrize("act", OTHERS)
def test_the_one_before_forbids_any_act(
    hosts: SimulatedHosts, told: Told, command: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    other(hosts, told, monkeypatch, act, acts=[act])
    told.fails("before")
    left = look.make_plan(hosts.known, hosts.names, hosts).hash
    done = command(act, *OTHERS[act][0])
    assert done.exit_code == 1 and "hooks.before: hook ended with exit code 3; no host was changed" in done.output
    assert not [line for line in hosts.log if " ledger " not in line and not line.endswith(" awaited")]
    assert (look.make_plan(hosts.known, hosts.names, hosts).hash, acts(hosts), locks(hosts)) == (left, [], [])


def test_a_hook_that_forbids_a_release_is_a_refusal(
    hosts: SimulatedHosts, told: Told, command: Callable[..., Result]
) -> None:
    told.fails("before")
    done = command("rollout", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout) == {
        "outcome": "refused",
        "error": "hooks.before: hook ended with exit code 3; no host was changed",
        "log": ["says before", "no before"],
    }


# --- The chat


CHANGE = f"predictor {OLD} -&gt; {NEW} on {', '.join(APPS)}"


def test_a_chat_is_told(hosts: SimulatedHosts, chat: list[tuple[str, dict[str, Any]]]) -> None:
    assert perform(hosts).error is None
    (first, began), (second, ended) = chat
    assert {first, second} == {CHAT}
    assert began == {"text": f"example: rollout of {CHANGE} began, by ann@desk"}
    assert list(ended) == ["text"] and ended["text"].startswith(f"example: rollout of {CHANGE} ended after ")
    assert ended["text"].endswith(", by ann@desk")


def test_a_chat_is_told_of_a_failure(hosts: SimulatedHosts, chat: list[tuple[str, dict[str, Any]]]) -> None:
    hosts.trouble["app2"] = Trouble("fail", 3)
    report = perform(hosts)
    text = chat[-1][1]["text"]
    assert " failed after " in text and text.endswith(f", by ann@desk: {hooks_module._plain(str(report.error))}")


def test_a_hook_that_forbids_a_release_is_all_that_is_told(
    hosts: SimulatedHosts, told: Told, chat: list[tuple[str, dict[str, Any]]]
) -> None:
    told.fails("before")
    with pytest.raises(FiefdomError):
        perform(hosts)
    ((_, only),) = chat
    assert only["text"].endswith(": hooks.before: hook ended with exit code 3; no host was changed")


def test_programs_are_told_the_fields(hosts: SimulatedHosts, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = tells(hosts, told, monkeypatch, format="fields", events=["ended"])
    perform(hosts, order=Order(canary="app1"))
    ((_, document),) = heard
    assert document.pop("seconds") > 0 and document.pop("text")
    assert document == {
        "event": "ended",
        "act": "rollout",
        "cluster": "example",
        "who": "ann@desk",
        "services": {"predictor": {"from": OLD, "to": NEW}},
        "hosts": ["app1"],
        "waiting": ["app2", "app3", "app4"],
        "error": "",
    }


def test_a_chat_that_is_away_is_a_word_about_it(
    hosts: SimulatedHosts, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    tells(hosts, told, monkeypatch, "answered with status 500")
    said: Said = []
    assert perform(hosts, lambda *words: said.append(words)).error is None  # type: ignore[arg-type]
    assert [what for who, what in said if who == "notify"] == [
        f"nobody was told that it {event}: notify.webhook answered with status 500" for event in ("began", "ended")
    ]


def test_a_url_that_is_not_given_is_a_word_about_it(
    hosts: SimulatedHosts, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = tells(hosts, told, monkeypatch, webhook={"env": "FIEFDOM_TEST_CHAT"})
    said: Said = []
    assert perform(hosts, lambda *words: said.append(words)).error is None  # type: ignore[arg-type]
    says = "nobody is told: notify.webhook: the environment variable FIEFDOM_TEST_CHAT is not set; set it where"
    assert heard == [] and [what for who, what in said if who == "notify"] == [f"{says} Fiefdom runs"]


def test_a_release_that_nobody_wants_to_hear_of_is_not_told(
    hosts: SimulatedHosts, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = tells(hosts, told, monkeypatch, acts=["apply"], webhook={"env": "FIEFDOM_TEST_CHAT"})
    said: Said = []
    perform(hosts, lambda *words: said.append(words))  # type: ignore[arg-type]
    assert heard == [] and not [what for who, what in said if who == "notify"]


def test_no_secret_is_told(hosts: SimulatedHosts) -> None:
    """Also where a service quotes one, and a host quotes the service."""
    value, content = SecretSource(env="VALUE"), SecretSource(env="CONTENT")
    secrets = replace(
        hosts.known.secrets,
        values={value: "hunter-1", SecretSource(env="SHORT"): "at"},
        contents={content: b"first line\nhunter-2\n", "nginx.conf": b"of the host\n"},
    )
    error = FiefdomError("app1: at hunter-1, hunter-2\n of the host: " + secrets.gossip_key)
    assert hooks_module._reason(error, secrets) == "app1: *** ***, *** of the host: ***"
    assert hooks_module._reason(ValueError("hunter-1"), secrets) == "a bug of Fiefdom: ValueError"


def test_nobody_is_called_by_what_a_host_says() -> None:
    assert hooks_module._plain("<!channel> a & b -> c") == "&lt;!channel&gt; a &amp; b -&gt; c"
