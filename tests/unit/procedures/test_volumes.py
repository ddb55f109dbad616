"""What a service's volumes and files go through: an apply, a release that ends well or badly, a change by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from fiefdom.converge import look, plan, turn_steps
from fiefdom.converge.run import Known
from fiefdom.converge.snapshot import FoundFile
from fiefdom.desired.containers import conf_path
from fiefdom.errors import FiefdomError
from fiefdom.model import Secrets, SecretSource
from fiefdom.procedures import rollout
from fiefdom.procedures.rollout import Wish
from helpers.clock import stopped
from helpers.example import GOSSIP_KEY
from helpers.released import APPS, Said, known
from helpers.simulated import SimulatedHost, SimulatedHosts, Trouble, answer, bring, converged

AT = "/etc/app/app.conf"
ON_HOST = "/etc/fiefdom/files/predictor-8000/etc%2Fapp%2Fapp.conf"
VOLUME = "/var/lib/fiefdom/volumes/predictor/data"
DATA = {"name": "data", "path": "/data"}
KEY = SecretSource(env="KEY")


def wants(
    text: str | None = "one\n", volumes: tuple[dict[str, Any], ...] = (DATA,), at: object = None, **changes: Any
) -> Known:
    """The cluster with this in a file of its service, and a secret in another; with neither, where it is None."""
    files = {} if text is None else {AT: {"text": text}, "/run/key": {"env": "KEY"}}
    service = {"user": "1000:1000", "volumes": list(volumes), "files": files} | changes
    found = known(services={"predictor": service}, **({} if at is None else {"hosts": at}))
    return replace(found, secrets=Secrets(GOSSIP_KEY, contents={KEY: b"-----BEGIN\nhunter2\n"}))


def gone() -> Known:
    """The cluster with another service in place of it."""
    none = {"services": {"predictor": {"instances": 0}}, "groups": ["app_hosts"]}
    other = {"image": "other", "version": "1", "base_port": 9100, "route": {"path_prefix": "/other"}}
    hosts = {name: {"address": f"10.1.0.{30 + i}", **none} for i, name in enumerate(APPS)}
    return known(services={"other": other}, hosts=hosts)


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimulatedHosts:
    stopped(monkeypatch)
    return converged(wants(), tmp_path)


def planned(hosts: SimulatedHosts) -> plan.Plan:
    return plan.merge(look.plan_of(hosts.known, name, answer(h.now)) for name, h in hosts.hosts.items())


def app1(hosts: SimulatedHosts) -> SimulatedHost:
    return hosts.hosts["app1"]


def seen(hosts: SimulatedHosts) -> set[bytes]:
    """What the service's containers have in their file, of all hosts."""
    return {found.get(AT, b"none") for name in APPS for found in hosts.hosts[name].mounted.values() if found}


def release(hosts: SimulatedHosts, wish: Wish | None = None) -> rollout.Report:
    wish, said = wish or Wish(), Said()
    wanted = rollout.prepare(hosts.known, hosts, frozenset(hosts.known.cluster.services), wish)
    for name, host in hosts.hosts.items():
        host.state = wanted.turns[name].state if name in wanted.turns else host.state
    return rollout.perform(hosts.known, hosts, wanted, wish, lambda who, what: said.append((who, what)))


def restart(host: SimulatedHost) -> None:
    """What a reboot does to an instance: its container starts anew, from what the host has."""
    host.containers("restart", "fiefdom-predictor@8000.service")


def test_a_converged_host_has_all_of_it_and_its_plan_is_clean(hosts: SimulatedHosts) -> None:
    assert planned(hosts).clean
    files = app1(hosts).now.files
    assert files[VOLUME] == FoundFile("directory", 0o700, 1000, 1000)
    assert (files[ON_HOST].mode, files[ON_HOST].uid) == (0o444, 0)
    secret = files["/etc/fiefdom/files/predictor-8001/run%2Fkey"]
    assert (secret.mode, secret.uid, secret.gid) == (0o400, 1000, 1000)
    assert app1(hosts).mounted["predictor-8001"]["/run/key"] == b"-----BEGIN\nhunter2\n"
    assert not any("volumes" in name for _, name in app1(hosts).now.made), "what the manifest has would be removed"


@pytest.mark.long
def test_other_content_waits_for_the_rollout_and_is_there_after_it(hosts: SimulatedHosts) -> None:
    bring(hosts, wants("two\n"))
    assert seen(hosts) == {b"one\n"}
    pending = planned(hosts)
    assert not pending.clean and pending.due.clean
    assert {p.service for p in pending.pending} == {"predictor"}
    restart(app1(hosts))
    assert seen(hosts) == {b"one\n"}, "a reboot in between brings nothing new"
    assert planned(hosts).due.clean
    assert release(hosts).error is None
    assert seen(hosts) == {b"two\n"}
    assert planned(hosts).clean


def test_a_release_that_fails_brings_the_old_content_back(hosts: SimulatedHosts) -> None:
    bring(hosts, wants("two\n"))
    wanted = rollout.prepare(hosts.known, hosts, {"predictor"}, Wish())
    steps = turn_steps.turn(wanted.turns["app1"])
    last = max(i for i, step in enumerate(steps) if step[0] == "containers")
    assert ("place", ON_HOST) in steps[:last]
    hosts.trouble["app1"] = Trouble("fail", last)
    report = release(hosts)
    assert report.error is not None and report.error.undone == ("app1",)
    assert seen(hosts) == {b"one\n"}
    assert app1(hosts).contents[ON_HOST] == b"one\n"
    left = [c for h in planned(hosts).due.hosts for c in h.changes]
    assert [(c.kind, c.why) for c in left] == [("container", "a failed release, kept aside")] * 2


@pytest.mark.long
def test_a_file_that_the_inventory_dropped_goes_when_no_container_has_it(hosts: SimulatedHosts) -> None:
    bring(hosts, wants(None))
    assert ON_HOST in app1(hosts).now.files, "a container of before may start again"
    restart(app1(hosts))
    pending = planned(hosts)
    assert pending.due.clean
    assert {c.release for h in pending.hosts for c in h.changes} == {"predictor"}
    assert release(hosts).error is None
    assert not any("/etc/fiefdom/files" in path for path in app1(hosts).now.files)
    assert not any("/etc/fiefdom/files" in name for _, name in app1(hosts).now.made)
    assert planned(hosts).clean


@pytest.mark.long
def test_files_and_a_volume_that_are_new_take_an_apply_and_the_rollout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(monkeypatch)
    hosts = converged(wants(None, volumes=()), tmp_path)
    hosts.known = wants()
    with pytest.raises(FiefdomError, match="another change is pending"):
        rollout.prepare(hosts.known, hosts, {"predictor"}, Wish())
    bring(hosts, wants())
    assert planned(hosts).due.clean and VOLUME in app1(hosts).now.files
    assert ON_HOST not in app1(hosts).now.files
    assert release(hosts).error is None
    assert seen(hosts) == {b"one\n"} and planned(hosts).clean


@pytest.mark.long
def test_a_file_that_a_forced_release_brings_is_fiefdoms_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No apply has made it, and so nothing but the turn can say whose it is: else it would stay for good."""
    stopped(monkeypatch)
    hosts = converged(wants(None), tmp_path)
    hosts.known = wants()
    assert release(hosts, Wish(force=True)).error is None
    assert ("file", ON_HOST) in app1(hosts).now.made and planned(hosts).due.clean
    bring(hosts, wants(None))
    assert release(hosts).error is None
    assert ON_HOST not in app1(hosts).now.files and not app1(hosts).originals


@pytest.mark.long
def test_what_a_container_has_that_only_an_apply_removes_stays_for_it(hosts: SimulatedHosts) -> None:
    of_host = {"groups": ["app_hosts"], "services": {"predictor": {"instances": 1}}}
    fewer = {name: {"address": f"10.1.0.{21 + i}", **of_host} for i, name in enumerate(APPS)}
    hosts.known = wants("two\n", at=fewer)
    assert release(hosts, Wish(force=True)).error is None
    left = f"{ON_HOST.replace('8000', '8001')}"
    assert "predictor-8001" in app1(hosts).now.containers and left in app1(hosts).now.files
    bring(hosts, hosts.known)
    assert "predictor-8001" not in app1(hosts).now.containers and left not in app1(hosts).now.files


def test_an_instance_more_begins_with_what_is_wanted_while_the_others_wait(hosts: SimulatedHosts) -> None:
    bring(hosts, wants("two\n"))
    host = app1(hosts)
    del host.now.containers["predictor-8001"], host.mounted["predictor-8001"]
    bring(hosts, wants("two\n"))
    assert {name: found[AT] for name, found in host.mounted.items() if name.startswith("predictor")} == {
        "predictor-8000": b"one\n",
        "predictor-8001": b"two\n",
    }
    assert planned(hosts).due.clean


def test_while_dockerd_is_down_nothing_changes_that_a_container_has(hosts: SimulatedHosts) -> None:
    host = app1(hosts)
    known = wants("two\n", user="2000:2000")
    down = replace(host.now, docker="down", units={k: v for k, v in host.now.units.items() if k != "docker.service"})
    found = look.plan_of(known, "app1", answer(down))
    changed = [c.name for c in found.due.changes]
    assert "docker.service" in changed
    assert not [name for name in changed if name.startswith(("/etc/fiefdom/files", "/var/lib/fiefdom/volumes"))]


@pytest.mark.long
def test_an_edited_file_is_drift_and_mended_where_what_runs_sees_it(hosts: SimulatedHosts) -> None:
    host = app1(hosts)
    before = dict(host.now.containers)
    host.now.files[ON_HOST] = replace(host.now.files[ON_HOST], digest="0" * 64, mode=0o644)
    host.mounted["predictor-8000"][AT] = b"edited\n"
    (due,) = (h for h in planned(hosts).due.hosts if h.changes)
    assert [(c.sign, c.kind, c.name, c.why) for c in due.changes] == [
        ("~", "file", ON_HOST, "content, mode 0644 -> 0444")
    ]
    bring(hosts, hosts.known)
    assert ("mend", ON_HOST) in host.log
    assert seen(hosts) == {b"one\n"} and host.now.containers == before
    assert planned(hosts).clean


@pytest.mark.long
def test_a_container_that_began_with_an_edited_file_is_no_longer_what_is_wanted(hosts: SimulatedHosts) -> None:
    stamps = app1(hosts).now.container_stamps
    stamps["predictor-8000"] += " edited"
    (change,) = (c for h in planned(hosts).hosts for c in h.changes)
    assert (change.sign, change.why) == ("-/+", "made from an edited environment or file")
    assert release(hosts).error is None
    assert planned(hosts).clean


@pytest.mark.long
def test_a_volume_outlives_its_key_and_its_service(hosts: SimulatedHosts) -> None:
    bring(hosts, wants(volumes=()))
    assert planned(hosts).due.clean
    assert release(hosts).error is None
    left = planned(hosts)
    assert left.clean, "it is no change, and no run would make it one"
    assert {h.host: h.left_volumes for h in left.hosts if h.left_volumes} == dict.fromkeys(APPS, (VOLUME,))
    assert left.as_data()["volumes_left"] == {name: [VOLUME] for name in APPS}
    bring(hosts, gone(), hold=())
    assert VOLUME in app1(hosts).now.files and "predictor-8000" not in app1(hosts).now.containers
    bring(hosts, wants(), hold=())
    assert app1(hosts).now.files[VOLUME].uid == 1000
    assert not any(h.left_volumes for h in planned(hosts).hosts)


@pytest.mark.long
def test_a_volumes_owner_by_itself_is_mended_and_with_a_release_waits_for_it(hosts: SimulatedHosts) -> None:
    app1(hosts).now.files[VOLUME] = FoundFile("directory", 0o755, 0, 0)
    assert [c.why for h in planned(hosts).due.hosts for c in h.changes] == ["mode 0755 -> 0700, owner 0:0 -> 1000:1000"]
    bring(hosts, wants(user="2000:2000"))
    assert app1(hosts).now.files[VOLUME].uid == 0, "what runs would be shut out"
    bring(hosts, wants())
    bring(hosts, wants(user="2000:2000"))
    wanted = rollout.prepare(hosts.known, hosts, {"predictor"}, Wish())
    steps = turn_steps.turn(wanted.turns["app1"])
    hosts.trouble["app1"] = Trouble("fail", len(steps) - 1)
    assert release(hosts).error is not None
    assert app1(hosts).now.files[VOLUME].uid == 1000, "with the release that fails it goes back"
    assert release(hosts).error is None
    assert {hosts.hosts[name].now.files[VOLUME].uid for name in APPS} == {2000}
    assert planned(hosts).clean


def test_a_folder_of_the_host_that_is_not_there_is_found_before_anything_is_touched(hosts: SimulatedHosts) -> None:
    folder = FoundFile("directory", 0o755, 0, 0)
    for name in APPS:
        hosts.hosts[name].now.files["/srv/models"] = folder
    hosts.known = wants(volumes=(DATA, {"host": "/srv/models", "path": "/models"}))
    wanted = look.make_plan(hosts.known, hosts.names, hosts)
    assert wanted.due.clean and wanted.pending
    del hosts.hosts["app2"].now.files["/srv/models"]
    words = (
        "app2: the folder /srv/models is not there: predictor could not start, which is to have it; make it there, or "
        "mend services.predictor.volumes"
    )
    hosts.log.clear()
    for ask in (
        lambda: look.make_plan(hosts.known, hosts.names, hosts),
        lambda: rollout.prepare(hosts.known, hosts, {"predictor"}, Wish(force=True)),
    ):
        with pytest.raises(FiefdomError) as error:
            ask()
        assert str(error.value) == words
    hosts.hosts["app2"].now.files["/srv/models"] = replace(folder, kind="symbolic link")
    with pytest.raises(FiefdomError, match=r"/srv/models is a symbolic link and no folder: .* name the folder that it"):
        look.make_plan(hosts.known, hosts.names, hosts)
    assert not any("turn" in line for line in hosts.log)
    hosts.hosts["app2"].now.files["/srv/models"] = folder
    assert release(hosts).error is None
    conf = app1(hosts).contents[conf_path("predictor-8000")].decode()
    assert "arg --mount=type=bind,source=/srv/models,target=/models,readonly\n" in conf


@pytest.mark.long
def test_a_device_that_is_not_there_is_found_before_anything_is_touched(hosts: SimulatedHosts) -> None:
    node = FoundFile("character special file", 0o660, 0, 20)
    for name in APPS:
        hosts.hosts[name].now.files["/dev/ttyUSB0"] = node
    hosts.known = wants(devices=["/dev/ttyUSB0:/dev/scale:rw"])
    wanted = look.make_plan(hosts.known, hosts.names, hosts)
    assert wanted.due.clean and wanted.pending
    del hosts.hosts["app2"].now.files["/dev/ttyUSB0"]
    with pytest.raises(FiefdomError) as error:
        rollout.prepare(hosts.known, hosts, {"predictor"}, Wish(force=True))
    assert str(error.value) == (
        "app2: the device /dev/ttyUSB0 is not there: predictor could not start, which is to have it; plug it in, load "
        "its driver, or mend services.predictor.devices"
    )
    # A link to a node, as udev makes them, or a folder of nodes: Docker takes either.
    hosts.hosts["app2"].now.files["/dev/ttyUSB0"] = replace(node, kind="symbolic link")
    assert release(hosts).error is None
    conf = app1(hosts).contents[conf_path("predictor-8000")].decode()
    assert "arg --device=/dev/ttyUSB0:/dev/scale:rw\n" in conf


def test_the_plan_says_that_a_volume_stays_and_where(hosts: SimulatedHosts, command: Callable[..., Result]) -> None:
    bring(hosts, wants(volumes=()))
    assert release(hosts).error is None
    done = command("plan")
    assert done.exit_code == 0, done.output
    assert f"volume: app1: {VOLUME} stays, though no service has it any more\n" in done.output


@pytest.mark.parametrize("volumes", [False, True])
def test_a_host_that_retires_keeps_its_volumes_unless_told(
    hosts: SimulatedHosts, command: Callable[..., Result], volumes: bool
) -> None:
    option = ["--volumes"] * volumes
    dry = command("retire", "app1", "--dry", *option)
    goes = "goes, with all that is in it" if volumes else "stays, with all that is in it; --volumes would remove it"
    assert dry.exit_code == 0, dry.output
    assert f"the volume {VOLUME} {goes}\n" in dry.output
    assert VOLUME in app1(hosts).now.files
    done = command("retire", "app1", "--yes", *option)
    assert done.exit_code == 0, done.output
    assert f"the volume {VOLUME} {goes}" in done.output
    assert (VOLUME in app1(hosts).now.files) is not volumes
    assert ON_HOST not in app1(hosts).now.files
