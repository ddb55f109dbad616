"""Nobody locks himself out: every mistake of this file is taken back by the host, with nobody at its console."""

from __future__ import annotations

import difflib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fiefdom import lab
from fiefdom.converge import guard, steps_script
from fiefdom.converge.steps_script import SCRIPT, steps_text
from helpers.operator_view import BIN, LAB_YAML, LOCKOUTS, ROOT, LockOut, Site, await_true

Data = dict[str, Any]
Mistake = Callable[[Data, str], object]

HOSTS = {"app1": "10.99.0.21", "app2": "10.99.0.22"}
"""A host of each Debian."""
CONFIRM_S = 12
LONG_S = 600
WRONG = {"app1": "10.99.0.121", "app2": "10.99.0.122"}
OUTSIDE = "10.98.77.1"
"""An address of the operator's that lab hosts reach by their default route only."""


def shut_firewall(data: Data, _host: str) -> None:
    data["network"]["input_rules"] = ["tcp dport 22 drop"]


def move_sshd_to_a_shut_port(data: Data, host: str) -> None:
    data["hosts"][host].setdefault("ssh", {})["port"] = 2222
    data["network"]["input_rules"] = ["tcp dport 2222 drop"]


def listen_elsewhere(data: Data, host: str) -> None:
    data["hosts"][host].setdefault("ssh", {})["listen"] = ["10.99.0.77"]


def allow_somebody_else(data: Data, _host: str) -> None:
    data["ssh"]["allow_users"] = ["root@10.99.0.250", "operator@10.99.0.250"]


def move_to_a_wrong_address(data: Data, host: str) -> None:
    data["hosts"][host].update(address=WRONG[host], static={"interface": "eth0", "prefix_length": 32})


def break_sshd_and_network(data: Data, host: str) -> None:
    listen_elsewhere(data, host)
    move_to_a_wrong_address(data, host)


MISTAKES = [
    pytest.param(shut_firewall, id="shut_firewall"),
    *(
        pytest.param(mistake, id=mistake.__name__, marks=pytest.mark.proof)
        for mistake in (
            break_sshd_and_network,
            move_sshd_to_a_shut_port,
            listen_elsewhere,
            allow_somebody_else,
            move_to_a_wrong_address,
        )
    ),
]

# All that may decide who gets in, and the live state of it; then what this change has nothing to do with.
LOOK = """
cd /etc && find ssh fiefdom systemd sysctl.d hosts resolv.conf docker -type f -exec sha256sum {} + | sort -k 2
find /etc/systemd -type l | sort
sshd -T | sort | sha256sum
nft -s list table inet fiefdom
ip -br -4 addr show scope global | sed s,@[^ ]*,,
ip -4 route
systemctl is-active ssh fiefdom-firewall systemd-networkd
docker inspect $(docker ps -q) --format '{{.Name}} {{.State.Pid}}' | sort
"""


def look(host: str) -> str:
    """As from the host's console: whether anybody can log in is what is asked."""
    return console(host, f"({LOOK}) 2>&1").stdout


def with_mistake(site: Site, mistake: Mistake, host: str, confirm_s: int = CONFIRM_S) -> str:
    def change(data: Data) -> None:
        data["ssh"]["confirm_s"] = confirm_s
        mistake(data, host)

    return site.inventory(f"{mistake.__name__}-{host}", change)


def arguments(inventory: str, host: str) -> list[str]:
    return ["apply", inventory, "--yes", "--limit", host, "--at", f"{host}={HOSTS[host]}:22"]


def pending(host: str) -> bool:
    """Whether a change is live on ``host`` and waits."""
    test = "test -e /var/lib/fiefdom/guard/applied -a -e /var/lib/fiefdom/guard/pending"
    return console(host, test).returncode == 0


def put_away(host: str) -> bool:
    """Whether nothing of a change or of its way back is there any more. A console that fails says no."""
    gone = "! test -e /var/lib/fiefdom/guard && ! systemctl is-active -q fiefdom-revert.service"
    return console(host, gone).returncode == 0


def console(host: str, command: str) -> subprocess.CompletedProcess[str]:
    argv = ["docker", "exec", lab.host(host).container, "sh", "-c", command]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def answers(host: str) -> bool:
    """Whether a login works, as an operator would try it."""
    done = subprocess.run(
        lab.ssh_argv(host, ["true"]), stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
    )
    return done.returncode == 0


@contextmanager
def locked_out(site: Site, event: str, host: str, inventory: str = LAB_YAML, rebooted: bool = False) -> Iterator[None]:
    """A mistake in the block is the host's to mend: after it, all is as before, and ``inventory`` finds it so."""
    trial = LockOut(f"{event} on {host}")
    LOCKOUTS.append(trial)
    before, began = look(host), time.monotonic()
    yield
    # What was changed is back a moment before the way back has put its own things away.
    await_true(lambda: put_away(host), what=f"the end of the way back on {host}")
    seconds = time.monotonic() - began
    now = look(host)
    if rebooted:
        before, now = (re.sub(r"(?m)^(/\S+) \d+$", r"\1", text) for text in (before, now))
    changed = [line for line in difflib.ndiff(before.splitlines(), now.splitlines()) if line[0] in "+-"]
    assert changed == []
    assert answers(host)
    assert console(host, "test -e /etc/systemd/system/fiefdom-revert-boot.service").returncode == 1
    assert site.plan(inventory, "--limit", host) == (0, {host: []})
    trial.recovered_s = seconds


def on_both(test: Callable[[str], object]) -> None:
    with ThreadPoolExecutor() as pool:
        list(pool.map(test, HOSTS))


def refused(done: subprocess.CompletedProcess[str], host: str) -> None:
    assert done.returncode == 1, done.stdout
    # Below it may stand the last words of a unit, where the reload itself failed and not the login after it.
    says = rf"error: {host}: the change of [a-z, ]+ was taken back: [^\n]+\n(?:    [^\n]+\n)*"
    assert re.fullmatch(says, done.stderr), done.stderr


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_taken_back(site: Site, mistake: Mistake) -> None:
    def on(host: str) -> None:
        with locked_out(site, mistake.__name__, host):
            refused(site.fiefdom(*arguments(with_mistake(site, mistake, host), host)), host)

    on_both(on)


def start(site: Site, inventory: str, host: str) -> subprocess.Popen[str]:
    """A deployer under way, whose change is live and waits for its confirmation."""
    argv = [str(BIN / "fiefdom"), *arguments(inventory, host)]
    deployer = subprocess.Popen(
        argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    await_true(lambda: pending(host) or deployer.poll() is not None, what=f"a change that waits on {host}")
    assert deployer.poll() is None
    return deployer


def kill(deployer: subprocess.Popen[str], how: signal.Signals = signal.SIGKILL) -> str:
    os.kill(deployer.pid, how)
    return deployer.communicate()[1]


@pytest.mark.parametrize(
    "how",
    [pytest.param(signal.SIGKILL, id="killed"), pytest.param(signal.SIGINT, id="interrupted", marks=pytest.mark.proof)],
)
def test_a_deployer_that_ends_early_leaves_a_host_that_takes_it_back(site: Site, how: signal.Signals) -> None:
    def on(host: str) -> None:
        with locked_out(site, f"deployer ended by {how.name}", host):
            said = kill(start(site, with_mistake(site, shut_firewall, host), host), how)
            if how == signal.SIGINT:
                assert f"error: interrupted; {host} takes back the change of firewall within {CONFIRM_S} s" in said
            assert not answers(host)
            await_true(lambda: not pending(host), what=f"nothing that waits on {host}")
            await_true(lambda: answers(host), what=f"a login on {host}")

    on_both(on)


def reboot(host: str) -> None:
    boot = lab.boot_of(host)
    console(host, "systemctl reboot --force --force")
    await_true(lambda: lab.boot_of(host) != boot, what=f"a new boot of {host}")


@pytest.mark.parametrize(
    ("mistake", "killed"),
    [
        pytest.param(move_to_a_wrong_address, True, id="wrong address, deployer killed", marks=pytest.mark.proof),
        pytest.param(move_to_a_wrong_address, False, id="wrong address", marks=pytest.mark.proof),
        pytest.param(shut_firewall, True, id="shut firewall, deployer killed", marks=pytest.mark.proof),
        pytest.param(shut_firewall, False, id="shut firewall", marks=pytest.mark.proof),
    ],
)
def test_a_reboot_takes_it_back(site: Site, mistake: Mistake, killed: bool) -> None:
    """Long before the time for the confirmation is over."""

    def on(host: str) -> None:
        event = f"{mistake.__name__}, reboot{', deployer killed' if killed else ''}"
        with locked_out(site, event, host, rebooted=True):
            deployer = start(site, with_mistake(site, mistake, host, LONG_S), host)
            if killed:
                kill(deployer)
            reboot(host)
            await_true(lambda: answers(host), what=f"a login on {host}")
            if not killed:
                _, says = deployer.communicate(timeout=LONG_S)
                assert deployer.returncode == 1
                assert f"{host}: the change of" in says
                assert "taken back: the host rebooted before it was confirmed" in says
            lab.await_booted([host])
            await_true(lambda: not site.plan(LAB_YAML, "--limit", host)[1][host], what="nothing to change")

    on_both(on)
    site.await_serving()


@pytest.mark.proof
def test_a_unit_that_the_change_turned_off_runs_again_after_a_reboot(site: Site) -> None:
    """Nothing of the boot itself asks for it any more."""

    def static(data: Data) -> None:
        for host in HOSTS:
            data["hosts"][host]["static"] = {"interface": "eth0", "gateway": lab.OPERATOR_ADDRESS}

    kept = site.inventory("static", static)
    site.apply(kept)
    try:

        def on(host: str) -> None:
            reboot(host)  # after which Docker's own default route is there as well, as it will be at the end
            lab.await_booted([host])
            await_true(lambda: not site.plan(kept, "--limit", host)[1][host], what="nothing to change")
            event = "static address dropped, firewall shut, reboot, deployer killed"
            with locked_out(site, event, host, kept, rebooted=True):
                kill(start(site, with_mistake(site, shut_firewall, host, LONG_S), host))
                reboot(host)
                await_true(lambda: answers(host), what=f"a login on {host}")
                lab.await_booted([host])
                await_true(lambda: not site.plan(kept, "--limit", host)[1][host], what="nothing to change")

        on_both(on)
    finally:
        site.apply()
    site.await_serving()


@pytest.mark.proof
def test_a_way_back_that_fails_is_taken_again(site: Site) -> None:
    def mistake(data: Data, host: str) -> None:
        shut_firewall(data, host)
        allow_somebody_else(data, host)

    def on(host: str) -> None:
        with locked_out(site, "a file that cannot be put back", host):
            folder = "/etc/ssh/sshd_config.d"
            kill(start(site, with_mistake(site, mistake, host), host))
            shut = f"mount --bind {folder} {folder} && mount -o remount,bind,ro {folder}"
            assert console(host, shut).returncode == 0
            failed = "systemctl show -p NRestarts --value fiefdom-revert.service | grep -vx 0"
            await_true(lambda: console(host, failed).returncode == 0, what="a second try")
            assert console(host, "test -e /var/lib/fiefdom/guard/pending").returncode == 0
            assert console(host, f"umount {folder}").returncode == 0
            await_true(lambda: answers(host), what=f"a login on {host}")

    on_both(on)


@contextmanager
def keys_of_the_inventory_only() -> Iterator[None]:
    """App hosts whose login user has no keys of its own."""
    homes = "for home in /root /home/operator; do mv $home/.ssh/{} $home/.ssh/{}; done"
    for host in HOSTS:
        console(host, homes.format("authorized_keys", "away"))
    try:
        yield
    finally:
        for host in HOSTS:
            console(host, homes.format("away", "authorized_keys"))


def public_key() -> str:
    return Path(f"{lab.lab_root() / 'id_ed25519'}.pub").read_text().strip()


@pytest.mark.proof
def test_emptied_keys_are_taken_back(site: Site) -> None:
    mine = site.inventory("mine", lambda d: d["ssh"].update(authorized_keys=[public_key()], confirm_s=CONFIRM_S))
    none = site.inventory("none", lambda d: d["ssh"].update(confirm_s=CONFIRM_S))
    site.apply(mine)
    try:
        with keys_of_the_inventory_only():

            def on(host: str) -> None:
                with locked_out(site, "emptied keys", host, mine):
                    refused(site.fiefdom(*arguments(none, host)), host)

            on_both(on)
    finally:
        site.apply()


@contextmanager
def operator_from_outside() -> Iterator[None]:
    """The operator's connections to app hosts come from another network, which these reach by their default route."""
    link = lab.NETWORK
    routes = [["ip", "addr", "add", f"{OUTSIDE}/32", "dev", link]]
    routes += [["ip", "route", "add", f"{address}/32", "dev", link, "src", OUTSIDE] for address in HOSTS.values()]
    done: list[list[str]] = []
    try:
        for argv in routes:
            subprocess.run(argv, check=True)
            done.append(argv)
        yield
    finally:
        for argv in reversed(done):
            subprocess.run([*argv[:2], "del", *argv[3:]], check=True)


@pytest.mark.proof
def test_a_default_route_that_goes_is_taken_back(site: Site) -> None:
    def static(gateway: dict[str, str]) -> Callable[[Data], None]:
        def change(data: Data) -> None:
            data["network"]["admin_cidrs"].append(f"{OUTSIDE}/32")
            data["ssh"]["confirm_s"] = CONFIRM_S
            for host in HOSTS:
                data["hosts"][host]["static"] = {"interface": "eth0", **gateway}

        return change

    routed = site.inventory("routed", static({"gateway": lab.OPERATOR_ADDRESS}))
    unrouted = site.inventory("unrouted", static({}))
    site.apply(routed)
    try:
        with operator_from_outside():

            def on(host: str) -> None:
                with locked_out(site, "default route removed", host, routed):
                    refused(site.fiefdom(*arguments(unrouted, host)), host)

            on_both(on)
    finally:
        site.apply()
    # One that has nothing to do any more would keep the next boot waiting.
    assert [console(host, "systemctl is-enabled systemd-networkd").stdout for host in HOSTS] == ["disabled\n"] * 2


def test_an_sshd_that_this_client_could_not_talk_to_never_becomes_live(site: Site) -> None:
    """Debian 13's has no key exchange in this mode that pyinfra's client knows."""
    pq = site.inventory("pq", lambda d: d["ssh"].update(crypto="pq"))
    before = look("app2")
    done = site.fiefdom("apply", pq, "--yes", "--limit", "app2")
    assert done.returncode == 1
    why = r"nothing was changed, for the new sshd would keep this client out: [^\n]+; write `ssh\.crypto: compat`"
    assert re.fullmatch(rf"error: app2: {why}\n", done.stderr), done.stderr
    assert look("app2") == before


@pytest.mark.proof
def test_an_sshd_with_the_policys_own_algorithms_is_lived_with_where_this_client_has_one_of_them(site: Site) -> None:
    """Debian 12's policy keeps curve25519, which pyinfra's client knows."""
    pq = site.inventory("pq", lambda d: d["ssh"].update(crypto="pq"))
    kex = "sshd -T | grep '^kexalgorithms '"
    try:
        site.apply(pq, "--limit", "app1")
        assert site.plan(pq, "--limit", "app1") == (0, {"app1": []})
        assert "hostkey /etc/ssh/fiefdom_host_rsa_key" in site.ssh("app1", "sshd -T").splitlines()
        assert "diffie-hellman-group16-sha512" in site.ssh("app1", kex)
        assert answers("app1")
    finally:
        site.apply(LAB_YAML, "--limit", "app1")
    assert site.plan(LAB_YAML, "--limit", "app1") == (0, {"app1": []})
    assert "diffie-hellman" not in site.ssh("app1", kex)


@pytest.mark.proof
def test_another_port_is_confirmed_there(site: Site) -> None:
    moved = site.inventory("port", lambda d: d["ssh"].update(port=2222))
    site.apply(moved)
    assert site.plan(moved)[0] == 0
    site.apply(LAB_YAML, *(f"--at={host}=:2222" for host in ("gw1", *HOSTS)))
    assert site.plan()[0] == 0


@pytest.mark.proof
def test_another_address_is_confirmed_there(site: Site) -> None:
    def change(data: Data) -> None:
        static = {"interface": "eth0", "gateway": lab.OPERATOR_ADDRESS}
        data["hosts"]["app2"].update(address=WRONG["app2"], static=static)

    def back(data: Data) -> None:
        data["hosts"]["app2"]["static"] = {"interface": "eth0", "gateway": lab.OPERATOR_ADDRESS}

    moved, returned = site.inventory("address", change), site.inventory("returned", back)
    site.apply(moved, f"--at=app2={HOSTS['app2']}")
    try:
        assert site.plan(moved) == (0, {name: [] for name in ("gw1", *HOSTS)})
        site.await_serving(moved)
    finally:
        site.apply(returned, f"--at=app2={WRONG['app2']}")
        site.apply()
    site.await_serving()


@pytest.mark.proof
def test_another_key_of_the_operator_is_confirmed_with_it(site: Site, tmp_path: Path) -> None:
    key = tmp_path / "new"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "new", "-f", str(key)], check=True)
    public = key.with_suffix(".pub").read_text().strip()
    both = site.inventory("both", lambda d: d["ssh"].update(authorized_keys=[public_key(), public]))
    new = site.inventory("new", lambda d: d["ssh"].update(authorized_keys=[public], key=str(key)))
    site.apply(both)
    try:
        with keys_of_the_inventory_only():
            site.apply(new, "--limit", "app_hosts")
            assert site.plan(new, "--limit", "app_hosts")[0] == 0
            assert not any(answers(host) for host in HOSTS)
    finally:
        site.apply()


@pytest.mark.proof
def test_a_change_that_nobody_confirmed_yet_is_waited_for(site: Site) -> None:
    """The next run after a deployer that died finds nothing to mend by hand, and sees what the host went back to."""

    def take(*steps: steps_script.Step) -> subprocess.CompletedProcess[str]:
        argv = ["docker", "exec", "-i", lab.host("app2").container, "sh", "-c", SCRIPT, "fiefdom"]
        return subprocess.run(argv, input=steps_text(steps), text=True, capture_output=True, check=False)

    # Long enough for what does not wait to be refused meanwhile.
    kept = guard.Backup("of a run that died", "sshd", 2 * CONFIRM_S, ())
    assert take(*guard.staged(), *guard.before(kept), *guard.after()).returncode == 0
    assert pending("app2")
    waits = "an earlier change waits for its confirmation"
    # What it recorded as made would be forgotten when the host puts its manifest back.
    made = take(("record", "file", "/srv/made-meanwhile"))
    assert made.returncode == 1 and waits in made.stdout
    refused = site.run("pyinfra", "inventories/lab.py", "deploys/site.py", "-y", "--limit", "app2")
    assert refused.returncode != 0
    assert f"app2: {waits}; it takes itself back within" in refused.stdout + refused.stderr
    assert pending("app2")
    with ThreadPoolExecutor() as pool:
        runs = [pool.submit(site.fiefdom, *argv) for argv in (("plan", LAB_YAML), ("apply", LAB_YAML, "--yes"))]
        for done in (run.result() for run in runs):
            assert done.returncode == 0, done.stderr
            assert re.match(rf"app2: {waits}; for at most \d+ s\n", done.stderr)
    assert not pending("app2")


@pytest.mark.proof
def test_that_is_so_with_pyinfras_own_command(site: Site) -> None:
    inventory = Path(with_mistake(site, allow_somebody_else, "app1"))
    (inventory.with_suffix(".py")).write_text((ROOT / "inventories" / "lab.py").read_text())
    before = look("app1")
    done = site.run("pyinfra", str(inventory.with_suffix(".py")), "deploys/sshd.py", "-y", "--limit", "app1")
    assert done.returncode != 0
    assert "the change of sshd was taken back" in done.stdout + done.stderr
    assert look("app1") == before
