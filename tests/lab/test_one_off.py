"""Commands beside instances: one of an operator's, one before a release; and a service whose hardening gives way.

The service is `tool`, with one instance on each app host beside the lab's own predictor.
"""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from helpers.operator_view import BIN, GATEWAY_URL, LAB_YAML, ROOT, Site, await_true, undisturbed

URLS = {"predictor": f"{GATEWAY_URL}/predict", "tool": f"{GATEWAY_URL}:8082/predict"}
AT_LEAST = 3_000
HOSTS = ("app1", "app2")
VARIABLE, SECRET = "FIEFDOM_TEST_TOOL_KEY", "swordfish-of-tool"
LOG = "/var/lib/fiefdom/volumes/tool/data/log"
GIVEN = {
    "writable_root": True,
    "capabilities": ["NET_BIND_SERVICE"],
    "shm_size": "32m",
    "devices": ["/dev/zero:/dev/given:r"],
    "extra_hosts": {"db.example.org": "10.9.0.1"},
    "tmpfs": ["/run", {"path": "/tmp", "exec": True}],
}
# What an instance is, a line each.
LOOK = """
grep -E '^(CapBnd|NoNewPrivs)' /proc/self/status | tr -d '\\t'
df -k --output=size /dev/shm | tail -n 1 | tr -d ' '
head -c 2 /dev/given | od -An -tx1 | tr -d ' '
getent hosts db.example.org | tr -s ' '
echo x >/var/tmp/x && echo wrote
cp /bin/true /tmp/true && /tmp/true && echo ran
cp /bin/true /run/true && /run/true 2>/dev/null || echo refused
"""
LOOKS = [
    "CapBnd:0000000000000400",
    "NoNewPrivs:0",
    "32768",
    "0000",
    "10.9.0.1 db.example.org",
    "wrote",
    "ran",
    "refused",
]


@dataclass
class Tool:
    """The lab with the service, and what its inventory says of it now."""

    site: Site

    def inventory(self, version: str = "1.0.0", **changes: Any) -> str:
        """Path of an inventory with this version; ``changes`` are set on the service."""

        def change(data: dict[str, Any]) -> None:
            own = {
                "version": version,
                "instances": 1,
                "base_port": 8600,
                "route": {"port": 8082},
                "user": "990:990",
                "environment": {"KEY": {"env": VARIABLE}},
                "volumes": [{"name": "data", "path": "/data"}],
                "files": {"/etc/tool.conf": {"text": "of the tool\n"}},
            }
            data["services"]["tool"] = {**data["services"]["predictor"], **own, **GIVEN, **changes}
            data["rollout"] = {"soak_s": 1}

        return self.site.inventory(f"tool-{version}", change)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.site.fiefdom("run", self.inventory(), "tool", *words)

    def left(self, host: str) -> str:
        """Containers and files of one-off commands that are on a host."""
        return self.site.ssh(
            host, "docker ps -aq --filter label=fiefdom.run; ls -A /var/lib/fiefdom/one-off 2>/dev/null; :"
        )

    def started(self) -> list[str]:
        """Of each instance, which container it is and since when it runs."""
        look = "docker inspect --format '{{.Id}} {{.State.StartedAt}}' tool-8600"
        return [self.site.ssh(host, look) for host in HOSTS]

    def acts(self, what: str) -> list[dict[str, Any]]:
        done = self.site.fiefdom("audit", self.inventory(), "--json")
        assert done.returncode == 0, done.stderr
        return [act for act in json.loads(done.stdout)["acts"] if act["what"] == what]


@pytest.fixture(scope="module")
def tool(first_converge: tuple[Site, str]) -> Iterator[Tool]:
    site, _ = first_converge
    found = Tool(site)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, SECRET)
        site.apply(found.inventory())
        site.await_serving(found.inventory())
        yield found
        site.apply(LAB_YAML)
    for host in HOSTS:
        site.ssh(host, "rm -rf /var/lib/fiefdom/volumes/tool")


def test_hardening_gives_way_where_a_key_says_so(tool: Tool) -> None:
    for host in HOSTS:
        found = tool.site.ssh(host, f"docker exec tool-8600 sh -c {shlex.quote(LOOK)}")
        assert found.splitlines() == LOOKS, host
    bounds = "docker exec predictor-8000 grep -E '^(CapBnd|NoNewPrivs)' /proc/self/status | tr -d '\\t'"
    assert tool.site.ssh("app1", bounds).splitlines() == ["CapBnd:0000000000000000", "NoNewPrivs:1"]
    assert tool.site.plan(tool.inventory())[0] == 0


def test_a_command_runs_as_an_instance_does_and_leaves_nothing(tool: Tool) -> None:
    words = (
        "id -u; echo $KEY $FIEFDOM_SERVICE $FIEFDOM_HOST; cat /etc/tool.conf; echo kept >/data/x; echo bad >&2; exit 7"
    )
    done = tool.run("--host", "app2", "sh", "-c", f"{words}")
    assert (done.returncode, done.stdout, done.stderr) == (
        7,
        f"990\n{SECRET} tool app2\nof the tool\n",
        "bad\n",
    )
    assert tool.site.ssh("app2", "cat /var/lib/fiefdom/volumes/tool/data/x") == "kept"
    done = tool.run("--", "sh", "-c", LOOK)
    assert (done.returncode, done.stdout.splitlines()) == (0, LOOKS), done.stderr
    first, second = tool.acts("run")[-2:]
    assert (first["hosts"], first["outcome"], second["hosts"], second["outcome"]) == (
        ["app2"],
        "failed",
        ["app1"],
        "ok",
    )
    assert first["note"].startswith("tool: sh -c 'id -u;") and SECRET not in json.dumps([first, second])
    missing = tool.run("--host", "app1", "--", "no-such-program")
    assert missing.returncode == 127 and "no-such-program" in missing.stderr
    assert [tool.left(host) for host in HOSTS] == ["", ""]


@pytest.mark.parametrize(
    "sign",
    [
        pytest.param(signal.SIGINT, id="interrupted"),
        pytest.param(signal.SIGKILL, id="killed", marks=pytest.mark.proof),
    ],
)
def test_nothing_goes_on_when_the_operator_goes(tool: Tool, sign: signal.Signals) -> None:
    inventory = tool.inventory()
    words = "trap 'echo stopped; exit 0' TERM; echo at work; while :; do sleep 0.1; done"
    argv = [str(BIN / "fiefdom"), "run", inventory, "tool", "--host", "app2", "--", "sh", "-c", words]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True) as run:
        assert run.stdout is not None and run.stderr is not None
        assert run.stdout.readline() == "at work\n"
        look = "docker inspect --format '{{.HostConfig.Memory}} {{.HostConfig.PortBindings}} {{.HostConfig.CapAdd}}'"
        seen = tool.site.ssh("app2", f"{look} $(docker ps -q --filter label=fiefdom.run)")
        assert seen.startswith(f"{128 << 20} map[] [") and "NET_BIND_SERVICE" in seen
        if sign == signal.SIGINT:
            assert tool.site.plan(inventory)[0] == 0 and tool.site.status(inventory)["serving"], (
                "nobody takes it for one"
            )
        run.send_signal(sign)
        out, err = run.communicate(timeout=30)
    if sign == signal.SIGINT:
        assert (run.returncode, out) == (1, "stopped\n")
        assert err == "error: interrupted; the command was stopped, and its container is gone\n"
        assert tool.left("app2") == ""
        assert tool.acts("run")[-1]["outcome"] == "interrupted"
    else:
        await_true(lambda: tool.left("app2") == "", 20, "the end of a command whose operator is gone")


@pytest.mark.proof
def test_what_comes_before_a_release_runs_once_and_its_failure_changes_nothing(tool: Tool) -> None:
    before = tool.started()
    write = "echo $FIEFDOM_VERSION $KEY $(cat /etc/tool.conf) >>/data/log; cat /data/log; "
    broken = tool.inventory("1.1.0", release=["sh", "-c", f"{write} echo no table >&2; exit 3"])
    with undisturbed("a release whose command fails", URLS, AT_LEAST, rate=300):
        tool.site.apply(broken)
        done = tool.site.fiefdom("rollout", broken, "tool")
    assert done.returncode == 1
    assert "app1: the release command of tool: ended with exit code 3; no host began its turn\n" in done.stdout
    assert "    no table\n" in done.stdout and f"Mend that, then: fiefdom rollout {broken} tool\n" in done.stdout
    assert tool.started() == before
    line = f"1.1.0 {SECRET} of the tool"
    assert tool.site.ssh("app1", f"cat {LOG}") == line, "the new version's, before any instance of it"

    good = tool.inventory("1.1.0", release=["sh", "-c", write])
    with undisturbed("a release whose command ends well", URLS, AT_LEAST, rate=300):
        done = tool.site.fiefdom("rollout", good, "tool")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"release: {line}" in done.stdout
    again = tool.inventory("1.1.0", release=["sh", "-c", write], stop_grace_s=11)
    done = tool.site.fiefdom("rollout", again, "tool")
    assert done.returncode == 0, done.stdout + done.stderr
    assert tool.site.ssh("app1", f"cat {LOG}").splitlines() == [line] * 2, "once more after it failed, and no more"
    assert [(act["note"], act["outcome"]) for act in tool.acts("release-tool")][-2:] == [
        ("1.1.0", "failed"),
        ("1.1.0", "ok"),
    ]
    done = tool.site.fiefdom("rollback", again, "tool", "1.0.0", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert tool.site.ssh("app1", f"wc -l <{LOG}") == "2" and not tool.site.ssh("app2", f"ls {LOG} 2>/dev/null; :")
    assert [tool.left(host) for host in HOSTS] == ["", ""]


@pytest.mark.proof
def test_a_command_that_is_not_at_its_end_in_time_is_stopped(tool: Tool) -> None:
    before = tool.started()
    slow = tool.inventory("1.2.0", release=["sleep", "60"], release_timeout_s=2, stop_grace_s=10)
    tool.site.apply(slow)
    done = tool.site.fiefdom("rollout", slow, "tool")
    assert done.returncode == 1
    assert "the release command of tool: was not at its end after 2 s, and was stopped; no host began" in done.stdout
    assert tool.started() == before and tool.left("app1") == ""
