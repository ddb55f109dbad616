"""What sshd makes of Fiefdom's drop-in, by its own word: others may overrule it, and then no plan is clean."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from helpers.operator_view import LAB_YAML, Site

MAIN = "/etc/ssh/sshd_config"
DROP_IN = "/etc/ssh/sshd_config.d/10-fiefdom.conf"
OVERRULED = {
    "no Include": (
        f"sed -i /^Include/d {MAIN}",
        f"sshd does not read it: write `Include /etc/ssh/sshd_config.d/*.conf` as the first line of {MAIN}",
    ),
    "a line above the Include": (
        f"sed -i '1i PasswordAuthentication yes' {MAIN}",
        "PasswordAuthentication is yes, wanted no: /etc/ssh/sshd_config line 1",
    ),
    "a file that is read before": (
        "printf '# x\\nKbdInteractiveAuthentication yes\\n' >/etc/ssh/sshd_config.d/00-provider.conf",
        "KbdInteractiveAuthentication is yes, wanted no: /etc/ssh/sshd_config.d/00-provider.conf line 2",
    ),
    "a user of its own": (
        f"printf 'Match User operator\\n  PasswordAuthentication yes\\n' >>{MAIN}",
        "PasswordAuthentication is yes for operator, wanted no: /etc/ssh/sshd_config line LAST",
    ),
    "an address of its own": (
        f"printf 'Match Address 10.99.0.0/24\\n  PermitRootLogin yes\\n' >>{MAIN}",
        ", wanted without-password: /etc/ssh/sshd_config line LAST",
    ),
    "a port that comes on top": (
        f"echo Port 2200 >>{MAIN}",
        "Port is 22, 2200, wanted 22: /etc/ssh/sshd_config line LAST",
    ),
    "what sshd does not know": (
        f"echo Nonsense 1 >>{MAIN}",
        "sshd refuses its configuration: /etc/ssh/sshd_config line LAST: Bad",
    ),
}

EVERYDAY = ("a file that is read before", "a user of its own")


@contextmanager
def spoilt(site: Site, host: str, harm: str) -> Iterator[str]:
    """A host with other sshd settings, which no sshd that runs has read; the number of the main file's last line."""
    site.ssh(host, "cp -a /etc/ssh /root/ssh.kept")
    try:
        site.ssh(host, harm)
        yield site.ssh(host, f"wc -l <{MAIN}")
    finally:
        site.ssh(host, "rm -rf /etc/ssh && mv /root/ssh.kept /etc/ssh")


def why(site: Site, *hosts: str) -> list[str]:
    """What the plan says of the drop-in on hosts, on which it changes nothing else but what this brings with it."""
    done = site.quick("plan", LAB_YAML, "--json")
    assert done.returncode == 2
    found = json.loads(done.stdout)["hosts"]
    return [str(change["why"]) for host in hosts for change in found[host] if change["name"] == DROP_IN]


@pytest.mark.parametrize("how", [pytest.param(h, marks=() if h in EVERYDAY else pytest.mark.proof) for h in OVERRULED])
def test_what_overrules_the_drop_in_is_drift_that_names_the_line(site: Site, how: str) -> None:
    harm, words = OVERRULED[how]
    with spoilt(site, "app1", harm) as last, spoilt(site, "app2", harm) as others_last:
        for said, number in zip(why(site, "app1", "app2"), (last, others_last), strict=True):
            assert said.startswith("without effect: ")
            assert words.replace("LAST", number) in said
        assert {tuple(changes) for changes in site.plan()[1].values()} == {(), (f"~ file {DROP_IN}",)}


def test_however_the_include_is_written_the_drop_in_is_judged_in_its_place_before_it_is_there(site: Site) -> None:
    for written in ('  include "sshd_config.d/*.conf" # theirs', "INCLUDE=/etc/ssh/sshd_config.d/1*.conf moduli.d/*"):
        harm = (
            f"rm {DROP_IN}; sed -i 's|^Include.*|{written}|' {MAIN}; echo 'UseDNS no' >/etc/ssh/sshd_config.d/50-b.conf"
        )
        with spoilt(site, "app1", harm), spoilt(site, "app2", harm):
            # What a bare sshd forwards, Fiefdom's does not.
            assert {said.partition(", ends tunnels of ")[0] for said in why(site, "app1", "app2")} == {"mode 0600"}
            site.ssh("app1", "echo X11Forwarding yes >/etc/ssh/sshd_config.d/10-a.conf")
            overruled, _ = why(site, "app1", "app2")
            assert overruled.endswith("X11Forwarding is yes, wanted no: /etc/ssh/sshd_config.d/10-a.conf line 1")


def test_an_apply_that_could_not_mend_it_touches_nothing(site: Site) -> None:
    harm, words = OVERRULED["a file that is read before"]
    with spoilt(site, "app2", f"{harm}; chmod 0600 /etc/modprobe.d/fiefdom.conf; rm {DROP_IN}"):
        done = site.fiefdom("apply", LAB_YAML, "--yes")
        assert done.returncode == 1
        assert words in done.stderr and "Traceback" not in done.stderr
        assert site.ssh("app2", f"stat -c %a /etc/modprobe.d/fiefdom.conf; ls {DROP_IN}", check=False) == "600"
        # pyinfra's own command knows no plan beforehand; there the host itself refuses it, before it is live.
        done = site.run("pyinfra", "inventories/lab.py", "deploys/sshd.py", "--limit", "app2", "-y")
        assert done.returncode != 0
        assert words in done.stdout + done.stderr
        assert site.ssh("app2", f"ls {DROP_IN}", check=False) == ""
        site.ssh("app2", "chmod 0644 /etc/modprobe.d/fiefdom.conf")
    assert site.plan()[0] == 0


def test_whose_login_ends_is_named_before_it_does(site: Site) -> None:
    known = "useradd -m -s /bin/sh bob && echo bob:let-me-in-4-now | chpasswd; useradd -m -s /bin/sh nobody-yet"
    site.ssh("app1", known)
    try:
        site.ssh("app1", f"rm {DROP_IN}")
        (said,) = why(site, "app1")
        assert "ends the login of bob (by password)" in said
        logins, _, tunnels = said.partition("ends tunnels of ")
        assert "root" not in logins and "nobody-yet" not in said and "operator" not in logins
        assert "root" in tunnels and "bob" not in tunnels and "ssh.tcp_forwarding" in tunnels
        site.apply()
        assert site.plan()[0] == 0
    finally:
        site.ssh("app1", "userdel -rf bob 2>/dev/null; userdel -rf nobody-yet 2>/dev/null", check=False)
