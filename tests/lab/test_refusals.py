"""What a run refuses on real hosts: one line that names the host and the mend, exit 1, and nothing was touched."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from helpers.operator_view import LAB_YAML, Site

DRIFT = "echo '# by hand' >> /etc/modprobe.d/fiefdom.conf"
MENDED = "sed -i '/^# by hand$/d' /etc/modprobe.d/fiefdom.conf"


@contextmanager
def undone(site: Site, host: str, do: str, undo: str) -> Iterator[None]:
    site.ssh(host, do)
    try:
        yield
    finally:
        site.ssh(host, undo)


def refused(site: Site, inventory: str = LAB_YAML, command: str = "apply") -> str:
    """The one line of a refusal. A drift on app1 shows that the run did not touch even a healthy host."""
    with undone(site, "app1", DRIFT, MENDED):
        done = site.fiefdom(command, inventory, *{"apply": ["--yes"], "rollout": ["--force"]}.get(command, []))
        assert done.returncode == 1, done.stdout
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
        assert "# by hand" in site.ssh("app1", "cat /etc/modprobe.d/fiefdom.conf")
    return done.stderr.removeprefix("error: ").strip()


def add_app9(data: dict[str, Any]) -> None:
    data["hosts"]["app9"] = {"address": "10.99.0.29", "groups": ["app_hosts"]}


def test_an_unreachable_host_is_named_before_any_host_changes(site: Site) -> None:
    line = refused(site, site.inventory("unreachable", add_app9))
    assert line.startswith("app9: ")


def test_a_host_that_answers_nowhere_is_told_with_the_port_that_was_asked_for(site: Site) -> None:
    def add_at_2222(data: dict[str, Any]) -> None:
        add_app9(data)
        data["hosts"]["app9"]["ssh"] = {"port": 2222}

    line = refused(site, site.inventory("port", add_at_2222))
    assert line.startswith("app9: Could not connect to 10.99.0.29:2222 (")
    assert "; nor does it answer at port 22, where a new host is" in line


def test_every_unreachable_host_is_named_and_may_be_left_out(site: Site) -> None:
    def add_two(data: dict[str, Any]) -> None:
        add_app9(data)
        data["hosts"]["app8"] = {"address": "10.99.0.28", "groups": ["app_hosts"]}

    inventory = site.inventory("unreachable", add_two)
    line = refused(site, inventory)
    assert "app9: " in line and "app8: " in line
    assert line.endswith("to go on without them: --without app9 --without app8")

    seen = site.fiefdom("plan", inventory, "--json")
    assert seen.returncode == 3
    found = json.loads(seen.stdout)
    assert set(found["silent"]) == {"app8", "app9"} and {"gw1", "app1", "app2"} <= set(found["hosts"])

    done = site.fiefdom("apply", inventory, "--yes", "--without", "app9", "--without", "app8")
    assert done.returncode == 0, done.stdout + done.stderr
    status = site.fiefdom("status", inventory, "--json")
    assert status.returncode == 3
    served = {i["host"] for i in json.loads(status.stdout)["instances"] if set(i["servers"]) == {"up"}}
    assert served == {"app1", "app2"}


def test_a_wrong_key_is_told_by_host(site: Site, tmp_path: Path) -> None:
    key = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    line = refused(site, site.inventory("key", lambda d: d["hosts"]["app1"].update(ssh={"key": str(key)})))
    assert line.startswith("app1: ")
    assert "uthentication" in line


def test_a_missing_key_file_is_told(site: Site) -> None:
    line = refused(site, site.inventory("nokey", lambda d: d["ssh"].update(key="/nowhere/id_ed25519")))
    assert "/nowhere/id_ed25519" in line


def test_an_unknown_host_key_is_refused(site: Site, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    known.touch()
    line = refused(site, site.inventory("strict", lambda d: d["ssh"].update(known_hosts=str(known))))
    assert "app1: " in line
    assert known.read_text() == ""


def test_a_user_without_sudo_is_told(site: Site) -> None:
    with undone(
        site,
        "gw1",
        "chmod 000 /etc/sudoers.d/*; mv /etc/sudoers.d /etc/sudoers.off",
        "mv /etc/sudoers.off /etc/sudoers.d; chmod 440 /etc/sudoers.d/*",
    ):
        line = refused(site)
    assert line.startswith("gw1: the login user is neither root nor allowed to use sudo without a password")


def test_a_host_that_is_not_debian_12_or_13_is_told(site: Site) -> None:
    fake = "printf 'ID=ubuntu\\nVERSION_CODENAME=noble\\n' > /tmp/os && mount --bind /tmp/os /etc/os-release"
    with undone(site, "app2", fake, "umount /etc/os-release"):
        line = refused(site)
    assert line.startswith("app2: is ubuntu noble; Fiefdom converges Debian 12 (bookworm) and 13 (trixie) only")


def test_an_image_that_does_not_exist_is_told_before_hosts_change(site: Site) -> None:
    def no_such(data: dict[str, Any]) -> None:
        data["services"]["predictor"].update(image="team/nowhere")
        del data["services"]["predictor"]["build"]

    line = refused(site, site.inventory("image", no_such), "rollout")
    assert line.startswith("services.predictor.image: team/nowhere:1.0.0 is not on this machine")


def test_an_image_that_cannot_be_built_is_told(site: Site, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM debian:trixie\nRUN false\n")
    inventory = site.inventory("broken", lambda d: d["services"]["predictor"].update(build=str(tmp_path), version="9"))
    assert "could not be built" in refused(site, inventory, "rollout")


def test_a_full_disk_in_staging_places_no_file(site: Site) -> None:
    small = (
        "cp -a /var/lib/fiefdom /run/kept && mount -t tmpfs -o size=1m,mode=0755 tmpfs /var/lib/fiefdom && "
        "cp -a /run/kept/. /var/lib/fiefdom/ && { head -c 2m /dev/zero > /var/lib/fiefdom/junk || :; } 2>/dev/null"
    )
    with undone(site, "app1", small, "umount /var/lib/fiefdom; rm -rf /run/kept"):
        line = refused(site)
    assert line.startswith("app1: ")
    assert "No space left" in line or "KiB free" in line


def test_a_limit_that_matches_nothing_is_told(site: Site) -> None:
    done = site.fiefdom("plan", LAB_YAML, "--limit", "app7")
    assert done.returncode == 1
    assert done.stderr.startswith("error: --limit 'app7': no host or group of that name")


def test_a_firewall_that_would_shut_the_operator_out_is_refused(site: Site) -> None:
    inventory = site.inventory("admins", lambda d: d["network"].update(admin_cidrs=["10.99.0.200/32"]))
    line = refused(site, inventory)
    assert line.startswith("gw1: your connection comes from 10.99.0.1, which is in none of network.admin_cidrs")
