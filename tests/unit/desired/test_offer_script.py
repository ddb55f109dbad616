"""The script that offers a service and withdraws it, run by a shell whose agent, instances and units a test plays."""

from __future__ import annotations

import json
import os
import random
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fiefdom.desired import offers, serf
from fiefdom.desired.programs import text_of
from helpers.example import context
from helpers.programs import with_constants

sys.path.insert(0, str(Path(__file__).parents[3] / "images" / "gateway"))

from fiefdom_gateway import packed
from fiefdom_gateway.members import Offer, parse_members
from fiefdom_gateway.settings import Service

NO_GATEWAY_S = 2
AGENT_S = 3
DOCKER = """#!/bin/sh
shift 2
exec "$@"
"""
# In the agent's container: its tags are lines of a file, so that a test sees what it was told. All of one command
# becomes true at once, as the agent has it.
SERF = """#!/bin/sh
[ ! -e {root}/dead ] || exit 1
case $1 in
  tags)
    echo "$*" >>{root}/told
    shift
    cp {root}/tags {root}/tags.$$
    while [ $# -gt 0 ]; do
      case $1 in
        -set) sed -i "/^${{2%%=*}}=/d" {root}/tags.$$; echo "$2" >>{root}/tags.$$ ;;
        -delete) sed -i "/^$2=/d" {root}/tags.$$ ;;
      esac
      shift 2
    done
    mv {root}/tags.$$ {root}/tags
    ;;
  info)
    echo '{{"tags": {{'
    sed 's/\\(.*\\)=\\(.*\\)/    "\\1": "\\2",/' {root}/tags
    echo '}}}}'
    ;;
  members)
    case $* in *leaving*) cat {root}/leaving 2>/dev/null ;; *alive*) cat {root}/alive; exit ;; esac
    cat {root}/gateways
    [ ! -e {root}/once ] || : > {root}/gateways
    ;;
  query) echo "$*" >>{root}/asked; sleep 0.05; cat {root}/answers ;;
esac
"""
CONTAINER = """#!/bin/sh
shift
for name; do grep -x "$name" {root}/answering || echo "$name: answered 403, wanted 200-399"; done
"""
SYSTEMCTL = """#!/bin/sh
case $1 in
  is-active) cat {root}/agent ;;
  show) cat {root}/unit ;;
esac
"""


class Host:
    """What the script finds on a host; ``app2`` of the example has predictor-8000, predictor-8001 and web-9000."""

    def __init__(self, root: Path, **settings: int) -> None:
        self.root = root
        for name, text in (("docker", DOCKER), ("serf", SERF), ("container", CONTAINER), ("systemctl", SYSTEMCTL)):
            (root / name).write_text(text.format(root=root))
            (root / name).chmod(0o755)
        for name in ("tags", "told", "asked", "answering", "alive"):
            (root / name).touch()
        self.made = root / "made"
        self.instance("running", 0)
        (root / "agent").write_text("active\n")
        self.knows()
        self.answer("predictor-8000", "predictor-8001", "web-9000")
        found = context("app2", serf=settings)
        (root / "offers.conf").write_bytes(serf.desired(found).file(serf.HOST_CONF).content)
        (root / "offers").mkdir()
        for file in offers.desired(found).files:
            if file.path.startswith(offers.CONF_DIR):
                (root / "offers" / Path(file.path).name).write_bytes(file.content)
        text = with_constants(
            "offer",
            conf_dir=root / "offers",
            host_conf=root / "offers.conf",
            made_dir=self.made,
            container=root / "container",
            no_gateway_s=NO_GATEWAY_S,
            agent_s=AGENT_S,
        )
        (root / "offer").write_text(text)

    def knows(self, *gateways: str, answers: str = "") -> None:
        """The agent knows these gateways, which all answer this."""
        self.put("gateways", *gateways)
        self.put("answers", *(f"Response from '{g}': {answers}" for g in gateways))

    def answer(self, *containers: str) -> None:
        """These instances answer their probe."""
        self.put("answering", *containers)

    def instance(self, sub: str, restarts: int) -> None:
        """What systemd shows of an instance's unit."""
        self.put("unit", f"SubState={sub}", f"NRestarts={restarts}")

    def put(self, name: str, *lines: str) -> None:
        (self.root / "new").write_text("".join(f"{line}\n" for line in lines))
        (self.root / "new").replace(self.root / name)

    def start(self, *words: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PATH": f"{self.root}:{os.environ['PATH']}"}
        environment.pop("NOTIFY_SOCKET", None)
        return subprocess.Popen(
            ["sh", str(self.root / "offer"), *words], env=environment, stderr=subprocess.PIPE, text=True, umask=0o077
        )

    def run(self, *words: str) -> str:
        return ended(self.start(*words))

    @property
    def tags(self) -> dict[str, str]:
        """What the agent says."""
        return dict(line.split("=", 1) for line in (self.root / "tags").read_text().splitlines())

    @property
    def next_tags(self) -> dict[str, str]:
        """What the agent would say from its next start on."""
        found: dict[str, str] = json.loads((self.made / "tags.json").read_text())["tags"]
        return found


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def ended(run: subprocess.Popen[str], code: int = 0) -> str:
    _, said = run.communicate(timeout=20)
    assert run.returncode == code, said
    return said


def await_true(condition: Callable[[], bool], within_s: float = 10) -> None:
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


OFFERED = {"svc:predictor": "1.2.0;8000-8001"}


# --- Making


@pytest.mark.long
def test_an_offer_is_made_when_every_instance_answers_and_holds_when_every_gateway_has_them_up(host: Host) -> None:
    host.knows("gw1", "gw2", answers="0 of 2 servers up")
    host.answer("predictor-8000")
    host.instance("start", 0)
    run = host.start("make", "predictor")
    time.sleep(0.6)
    assert run.poll() is None and host.tags == {}, "one is on its way still"
    host.answer("predictor-8000", "predictor-8001")
    await_true(lambda: host.tags == OFFERED)
    time.sleep(0.3)
    assert run.poll() is None, "no gateway has them up"
    host.knows("gw1", "gw2", answers="serving")
    assert ended(run) == ""
    assert host.next_tags == {"role": "app", **OFFERED}
    assert " fiefdom-serving app2 predictor 2" in (host.root / "asked").read_text()
    assert stat.S_IMODE((host.made / ".ask").stat().st_mode) == 0o644, "the agent's user locks it, too"


def test_those_that_answer_are_offered_without_waiting_for_one_that_failed(host: Host) -> None:
    host.knows("gw1", answers="serving")
    host.answer("predictor-8001")
    host.instance("auto-restart", 3)
    said = host.run("make", "predictor")
    assert said == "predictor is offered by 1 of its 2 instances: predictor-8000: answered 403, wanted 200-399\n"
    assert host.tags == OFFERED
    assert " fiefdom-serving app2 predictor 1" in (host.root / "asked").read_text()


@pytest.mark.long
@pytest.mark.parametrize("unit", [("auto-restart", 1), ("start", 2), ("failed", 0)])
def test_a_service_that_does_not_come_up_is_not_offered_and_its_neighbour_is(host: Host, unit: tuple[str, int]) -> None:
    host.knows("gw1", answers="serving")
    host.answer("web-9000")
    host.instance(*unit)
    run = host.start("make", "predictor")
    assert ended(run, 1) == (
        "predictor is not offered: none of its 2 instances is healthy, predictor-8000: answered 403, wanted 200-399\n"
    )
    assert host.run("make", "web") == ""
    assert host.tags == {"svc:web": "7;9000-9000"}


@pytest.mark.long
def test_an_agent_that_does_not_answer_ends_it_and_one_that_comes_back_is_waited_for(host: Host) -> None:
    host.knows("gw1", answers="serving")
    (host.root / "dead").touch()
    run = host.start("make", "predictor")
    time.sleep(1)
    assert run.poll() is None
    (host.root / "dead").unlink()
    assert ended(run) == "" and host.tags == OFFERED
    (host.root / "dead").touch()
    (host.root / "agent").write_text("failed\n")
    run = host.start("make", "web")
    assert ended(run, 1) == "web is not offered: the host's Serf agent does not answer\n"


def test_an_offer_that_became_another_and_could_not_be_told_is_found_by_the_next_plan(host: Host) -> None:
    host.knows("gw1", answers="serving")
    host.run("make", "predictor")
    offered = (host.made / "predictor.offer").read_text()
    conf = host.root / "offers/predictor.conf"
    conf.write_text(conf.read_text().replace("1.2.0;", "1.3.0;"))
    (host.root / "dead").touch()
    (host.root / "agent").write_text("failed\n")
    assert "the host's Serf agent does not answer" in ended(host.start("make", "predictor"), 1)
    assert (host.made / "predictor.offer").read_text() == offered and host.next_tags == {"role": "app", **OFFERED}


@pytest.mark.long
def test_without_a_gateway_it_is_offered_to_whoever_comes(host: Host) -> None:
    began_s = time.monotonic()
    assert host.run("make", "predictor") == ""
    assert host.tags == OFFERED
    assert time.monotonic() - began_s < 5


# --- Withdrawing


@pytest.mark.long
def test_it_is_withdrawn_when_every_gateway_has_drained_it_and_its_neighbour_stays(host: Host) -> None:
    host.knows("gw1", "gw2", answers="serving")
    host.run("make", "predictor")
    host.run("make", "web")
    host.knows("gw1", "gw2", answers="1 servers in rotation, 0 requests open")
    run = host.start("withdraw", "predictor")
    await_true(lambda: host.tags == {"svc:web": "7;9000-9000"})
    time.sleep(0.3)
    assert run.poll() is None
    host.knows("gw1", "gw2", answers="drained")
    assert ended(run) == ""
    assert host.next_tags == {"role": "app", "svc:web": "7;9000-9000"}
    assert (host.root / "asked").read_text().splitlines()[-1].endswith(" fiefdom-drained app2 predictor")


def test_what_was_not_offered_is_withdrawn_at_once_and_nobody_is_told(host: Host) -> None:
    host.knows("gw1", answers="1 servers in rotation, 0 requests open")
    assert host.run("withdraw", "predictor") == ""
    assert (host.root / "told").read_text() == "" == (host.root / "asked").read_text()


@pytest.mark.long
def test_an_agent_that_is_dead_for_good_has_nothing_to_announce(host: Host) -> None:
    host.run("make", "predictor")
    (host.root / "dead").touch()
    (host.root / "agent").write_text("failed\n")
    began_s = time.monotonic()
    assert host.run("withdraw", "predictor") == ""
    assert time.monotonic() - began_s < AGENT_S
    assert host.next_tags == {"role": "app"}, "nor does it say so when it starts"


@pytest.mark.long
def test_an_agent_that_is_alive_and_does_not_hear_is_told_for_as_long_as_it_may_take(tmp_path: Path) -> None:
    host = Host(tmp_path, drain_timeout_s=AGENT_S + 2)
    host.run("make", "predictor")
    host.knows("gw1", answers="drained")
    (host.root / "dead").touch()
    run = host.start("withdraw", "predictor")
    time.sleep(AGENT_S + 0.5)
    assert run.poll() is None
    (host.root / "dead").unlink()
    assert ended(run) == "" and host.tags == {}
    host.knows()
    host.run("make", "predictor")
    (host.root / "dead").touch()
    assert host.run("withdraw", "predictor") == (
        f"going on after {AGENT_S + 2} s: the agent was not told of app2 predictor\n"
    )


def test_what_a_gateway_still_hears_of_is_withdrawn_again(host: Host) -> None:
    """A start that was ended half way may have left somebody in the container who tells the agent of it later."""
    host.knows("gw1", answers="serving")
    host.run("make", "predictor")
    host.knows("gw1", answers="app2 still offers predictor")
    run = host.start("withdraw", "predictor")
    await_true(lambda: (host.root / "told").read_text().count("-delete svc:predictor") >= 2)
    host.knows("gw1", answers="drained")
    assert ended(run) == "" and host.tags == {}


@pytest.mark.long
def test_withdrawing_takes_no_longer_than_draining_may(tmp_path: Path) -> None:
    host = Host(tmp_path, drain_timeout_s=1)
    host.run("make", "predictor")
    said = host.run("withdraw", "predictor")
    assert said.startswith('going on after 1 s: of 0 gateways 0 say "drained" of app2 predictor')


# --- The agent's starts and stops


@pytest.mark.long
def test_a_starting_agent_says_what_is_offered_and_nothing_that_is_damaged(host: Host) -> None:
    host.run("make", "predictor")
    for name, text in (("web", '7";9000-9000\n'), ("other", ""), ("more", ";\n")):
        (host.made / f"{name}.offer").write_text(text)
    (host.made / "tags.json").write_text("{damaged")
    assert host.run("tags") == ""
    assert host.next_tags == {"role": "app", **OFFERED}


def test_a_host_that_boots_offers_nothing(host: Host) -> None:
    assert host.run("tags") == ""
    assert host.next_tags == {"role": "app"}


@pytest.mark.long
def test_what_changed_while_the_agent_started_is_made_good(host: Host) -> None:
    host.knows("gw1", answers="serving")
    host.run("make", "predictor")
    host.put("tags", "svc:web=7;9000-9000", "svc:predictor=1.1.0;8000-8001")
    assert host.run("agree") == ""
    assert host.tags == OFFERED
    told = (host.root / "told").read_text()
    assert host.run("agree") == ""
    assert (host.root / "told").read_text() == told, "an agent that says what it should is left alone"


@pytest.mark.long
def test_the_agent_waits_until_the_gateways_have_what_it_offers(host: Host) -> None:
    host.knows("gw1", answers="serving")
    host.run("make", "predictor")
    host.knows("gw1", answers="0 of 2 servers up")
    run = host.start("agree")
    time.sleep(0.6)
    assert run.poll() is None
    host.knows("gw1", answers="serving")
    assert ended(run) == ""


def test_a_host_leaves_when_every_gateway_has_drained_it(host: Host) -> None:
    host.knows("gw1", "gw2", answers="1 servers in rotation, 0 requests open")
    run = host.start("leave")
    await_true(lambda: host.tags == {"state": "leaving"})
    time.sleep(0.3)
    assert run.poll() is None
    host.knows("gw1", "gw2", answers="drained")
    assert ended(run) == ""
    assert (host.root / "asked").read_text().splitlines()[0].endswith(" fiefdom-drained app2")


@pytest.mark.long
def test_a_host_that_leaves_waits_for_the_only_gateways_agent_to_come_back(host: Host) -> None:
    run = host.start("leave")
    time.sleep(0.5)
    assert run.poll() is None, "no gateway was taken for an agreement"
    host.knows("gw1", answers="2 servers in rotation, 1 requests open")
    time.sleep(NO_GATEWAY_S + 0.5)
    assert run.poll() is None, "once it is back its word counts"
    host.knows("gw1", answers="drained")
    assert ended(run) == ""


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "before", "after"), [(("leave",), "0 servers", "drained"), (("agree",), "0 of", "serving")]
)
def test_a_gateway_that_leaves_is_asked_as_long_as_it_is_there(
    host: Host, words: tuple[str, ...], before: str, after: str
) -> None:
    host.knows("gw1", answers="serving")
    host.run("make", "predictor")
    host.knows("gw1", answers=before)
    (host.root / "gateways").replace(host.root / "leaving")
    host.put("gateways")
    run = host.start(*words)
    time.sleep(NO_GATEWAY_S + 1)
    assert run.poll() is None
    host.knows("gw1", answers=after)
    (host.root / "leaving").unlink()
    assert ended(run) == ""


@pytest.mark.long
def test_a_host_without_any_gateway_leaves_in_finite_time(host: Host) -> None:
    began_s = time.monotonic()
    assert host.run("leave") == ""
    # The script counts whole seconds, of which the first may be nearly over.
    assert time.monotonic() - began_s >= NO_GATEWAY_S - 1


@pytest.mark.long
def test_a_gateway_that_goes_meanwhile_is_not_waited_for(host: Host) -> None:
    host.knows("gw1")
    (host.root / "once").touch()
    assert host.run("make", "predictor") == ""


# --- Mistakes


@pytest.mark.parametrize("damage", ["missing", "not whole"])
@pytest.mark.parametrize("name", ["offers.conf", "offers/predictor.conf"])
def test_without_its_configuration_it_says_so_and_announces_nothing(host: Host, name: str, damage: str) -> None:
    conf = host.root / name
    if damage == "missing":
        conf.unlink()
    else:
        conf.write_text(conf.read_text().replace("drain_timeout_s", "something_else"))
    assert ended(host.start("make", "predictor"), 1) == f"{conf} is missing, or not whole\n"
    assert host.tags == {}


@pytest.mark.parametrize("words", [("dance",), ("make",), ("leave", "predictor"), ()])
def test_wrong_usage_is_told(host: Host, words: tuple[str, ...]) -> None:
    said = ended(host.start(*words), 1)
    assert said == "usage: offer make|withdraw SERVICE, or tags|agree|leave\n"


def test_the_constants_that_a_test_replaces_are_there() -> None:
    assert "no_gateway_s=5\n" in text_of("offer") and "agent_s=10\n" in text_of("offer")


# --- More than Serf carries in a tag for each


def offer_many(host: Host, words: dict[str, str]) -> None:
    """The host has offered these before."""
    host.made.mkdir(exist_ok=True)
    for name, word in words.items():
        (host.made / f"{name}.offer").write_text(f"{word}\n")


def read_by_a_gateway(tags: dict[str, str], services: set[str]) -> dict[str, Offer]:
    """What a gateway understands that routes these services and others."""
    routed = {name: Service(name, name, 8000, 100, "check") for name in services | {f"other{i}" for i in range(40)}}
    listed = {"name": "app2", "addr": "10.1.0.22:7946", "status": "alive", "tags": tags}
    roll = parse_members(json.dumps({"members": [listed]}), routed)
    assert roll.rejected == ()
    return {offer.service: offer for offer in roll.members[0].offers}


SIXTY = {f"service-with-a-long-name-{i}": f"{i:x}{'v' * 126};{8000 + 10 * i}-{8001 + 10 * i}" for i in range(60)}


def test_what_a_gateway_understands_of_sixty_services_is_what_the_host_offers(host: Host) -> None:
    offer_many(host, SIXTY)
    assert host.run("tags") == ""
    assert set(host.next_tags) == {"role", "o"} and len(host.next_tags["o"]) == 482
    found = read_by_a_gateway(host.next_tags, set(SIXTY))
    for name, word in SIXTY.items():
        version, _, ports = word.partition(";")
        offer = found[name]
        assert (f"{offer.first_port}-{offer.last_port}", offer.checks) == (ports, 0)
        assert offer.version == f"~{packed.code(version)}" and offer.version in packed.spellings(version)


@pytest.mark.parametrize("seed", range(4))
def test_any_ports_come_through(host: Host, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311
    words: dict[str, str] = {}
    wanted: dict[str, tuple[int, int, int]] = {}
    for i in range(25):
        first = chance.choice([1, 15, 16, 8000, 8126, 8127, 65535, chance.randrange(1, 65000)])
        last = min(first + chance.choice([0, 1, 14, 15, 16, 300]), 65535)
        checks = chance.choice([0, 1, chance.randrange(1, 65536 - last + first)])
        words[f"s{i}"] = f"{'v' * 100};{first}-{last}" + (f";{checks}" if checks else "")
        wanted[f"s{i}"] = first, last, checks
    offer_many(host, words)
    assert host.run("tags") == ""
    found = read_by_a_gateway(host.next_tags, set(words))
    assert {name: (o.first_port, o.last_port, o.checks) for name, o in found.items()} == wanted


PLAIN = {f"s{i}": f"{'1' * 60};{9100 + i}-{9100 + i}" for i in range(6)}
READS = "gw1  10.1.0.11:7946  alive  role=gateway,reads=packed"


def test_one_offer_more_takes_the_place_of_all_tags_in_one_stroke_and_back(host: Host) -> None:
    host.knows("gw1", answers="serving")
    host.put("alive", READS)
    offer_many(host, PLAIN)
    host.run("tags")
    host.put("tags", *(f"{key}={said}" for key, said in host.next_tags.items() if key != "role"))
    assert set(host.tags) == {f"svc:{name}" for name in PLAIN}
    assert host.run("make", "predictor") == ""
    assert set(host.tags) == {"o"} and host.next_tags == {"role": "app", **host.tags}
    assert len((host.root / "told").read_text().splitlines()) == 1
    assert set(read_by_a_gateway({"role": "app", **host.tags}, {*PLAIN, "predictor"})) == {*PLAIN, "predictor"}
    # The question has what the tag leaves out.
    assert " fiefdom-serving app2 predictor 2 1.2.0" in (host.root / "asked").read_text()
    host.knows("gw1", answers="drained")
    assert host.run("withdraw", "predictor") == ""
    assert host.tags == {f"svc:{name}": word for name, word in PLAIN.items()}
    assert len((host.root / "told").read_text().splitlines()) == 2


def test_among_packed_offers_one_is_made_and_withdrawn(host: Host) -> None:
    host.knows("gw1", answers="serving")
    host.put("alive", READS)
    many = {name: word for i, (name, word) in enumerate(SIXTY.items()) if i < 30}
    offer_many(host, many)
    for name, word in many.items():
        text = f"word {word}\nstart_timeout_s 1\ndrain_timeout_s 1\n"
        (host.root / "offers" / f"{name}.conf").write_text(text)
    host.run("tags")
    host.put("tags", f"o={host.next_tags['o']}")
    before = host.tags
    assert host.run("make", "web") == ""
    offer = read_by_a_gateway({"role": "app", **host.tags}, {*many, "web"})["web"]
    assert (offer.first_port, offer.last_port) == (9000, 9000)
    assert host.run("agree") == "", "as many of their instances answer as are to"
    assert len((host.root / "told").read_text().splitlines()) == 1
    host.knows("gw1", answers="drained")
    assert host.run("withdraw", "web") == ""
    assert host.tags == before


def test_what_is_withdrawn_again_brings_back_nothing_that_another_withdrew_meanwhile(host: Host) -> None:
    host.knows("gw1", answers="serving")
    host.put("alive", READS)
    many = {name: word for i, (name, word) in enumerate(SIXTY.items()) if i < 30}
    offer_many(host, many)
    host.run("tags")
    host.put("tags", f"o={host.next_tags['o']}")
    assert host.run("make", "web") == ""
    host.knows("gw1", answers="app2 still offers web")
    told = host.root / "told"
    before = len(told.read_text().splitlines())
    run = host.start("withdraw", "web")
    await_true(lambda: len(told.read_text().splitlines()) > before)
    other, *rest = many
    (host.made / f"{other}.offer").unlink()
    await_true(lambda: set(read_by_a_gateway({"role": "app", **host.tags}, {*many, "web"})) == set(rest))
    host.knows("gw1", answers="drained")
    assert ended(run) == "" and set(read_by_a_gateway({"role": "app", **host.tags}, {*many, "web"})) == set(rest)


def test_a_gateway_that_would_not_understand_is_named_and_nothing_changes(host: Host) -> None:
    host.knows("gw1", answers="serving")
    host.put("alive", READS, "gw2  10.1.0.12:7946  alive  role=gateway")
    offer_many(host, PLAIN)
    host.run("tags")
    before = host.next_tags
    assert ended(host.start("make", "predictor"), 1) == (
        "predictor is not offered: Serf carries that many only in a way that is new to gw2; run `fiefdom apply` there\n"
    )
    assert (host.next_tags, host.tags) == (before, {}) and not (host.made / "predictor.offer").exists()


def test_what_serf_does_not_carry_is_not_offered_and_the_rest_is(host: Host) -> None:
    offer_many(host, SIXTY)
    host.run("tags")
    before = host.next_tags
    assert ended(host.start("make", "web"), 1) == (
        "web is not offered: what this host offers needs 523 bytes and Serf carries 512\n"
    )
    assert host.next_tags == before and not (host.made / "web.offer").exists()
