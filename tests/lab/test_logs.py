"""What instances say, for who is on call: merged, followed and complete; commands in them; and gateways' requests.

The service is `talker`, with two instances on each app host beside the lab's own predictor. It says numbered lines when
it is asked to.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fiefdom import lab
from helpers.operator_view import BIN, GATEWAY_URL, LAB_YAML, ROOT, Site, await_true, undisturbed
from helpers.terminal import terminal

pytestmark = pytest.mark.proof

URLS = {"predictor": f"{GATEWAY_URL}/predict"}
AT_LEAST = 1_000
HOSTS = {"app1": "10.99.0.21", "app2": "10.99.0.22"}
PORTS = (8700, 8701)
INSTANCES = {f"{host}:{port}" for host in HOSTS for port in PORTS}
LOST_S = 90
"""Until a host that is cut off is told: 30 s without a sign of it, and a machine that is busy."""
TALKER = """
import os, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

def say(name, lines, per_s):
    began, most = time.monotonic(), 0
    for n in range(lines):
        sys.stdout.write(f"{name} {n} {'x' * (n % 50)}\\n")
        if n % 100 == 99:
            sys.stdout.flush()
            time.sleep(max(0, began + n / per_s - time.monotonic()))
    sys.stdout.flush()

class Talker(BaseHTTPRequestHandler):
    def do_GET(self):
        asked = {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}
        if "name" in asked:
            work = asked["name"], int(asked["lines"]), int(asked["per_s"])
            threading.Thread(target=say, args=work).start()
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass

ThreadingHTTPServer(("", 8000), Talker).serve_forever()
"""


def talker_image(folder: Path) -> Path:
    """The predictor's build context, but for what its image runs: what it is told."""
    shutil.copytree(ROOT / "images/predictor", folder)
    text = (folder / "Dockerfile").read_text()
    changed = text.replace('ENTRYPOINT ["python3", "/srv/predictor/predictor.py"]', 'ENTRYPOINT ["python3"]')
    assert changed != text
    (folder / "Dockerfile").write_text(changed)
    return folder


@dataclass
class Talking:
    """The lab with the service."""

    site: Site
    image: Path

    def inventory(self, name: str = "talker", **gateway: Any) -> str:
        """Path of an inventory; ``gateway`` is set on the gateways."""

        def change(data: dict[str, Any]) -> None:
            own = {
                "image": "fiefdom-test/talker",
                "build": str(self.image),
                "instances": len(PORTS),
                "base_port": PORTS[0],
                "route": {"port": 8083},
                "user": "990:990",
                "files": {"/etc/talker.py": {"text": TALKER}},
                "command": ["/etc/talker.py"],
            }
            data["services"]["talker"] = {**data["services"]["predictor"], **own}
            data["rollout"] = {"soak_s": 1}
            data["gateway"] = gateway

        return self.site.inventory(name, change)

    def say(self, name: str, lines: int, per_s: int = 1000, hosts: tuple[str, ...] = tuple(HOSTS)) -> None:
        """Have each instance begin to say so many lines."""
        for host in hosts:
            for port in PORTS:
                url = f"http://{HOSTS[host]}:{port}/?name={name}&lines={lines}&per_s={per_s}"
                self.site.ssh(host, f"curl --silent --fail --max-time 5 '{url}'")

    def logs(self, *words: str, inventory: str = "") -> tuple[int, list[dict[str, Any]]]:
        """Exit code and lines of `fiefdom logs`, which says nothing else."""
        done = self.site.fiefdom("logs", inventory or self.inventory(), *words)
        assert done.stderr == "", done.stderr
        return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]

    @contextmanager
    def followed(self, *words: str) -> Iterator[Followed]:
        """`fiefdom logs -f` of the talkers beside the block; ended as a person does."""
        path = self.site.scratch / "followed"
        argv = [str(BIN / "fiefdom"), "logs", self.inventory(), "talker", "-f", *words]
        with path.open("w") as out, subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out) as process:
            try:
                yield Followed(path, process)
            finally:
                process.send_signal(signal.SIGINT)
                code = process.wait(60)
        assert code == 0


@dataclass
class Followed:
    """What it has printed so far."""

    path: Path
    process: subprocess.Popen[bytes]
    _found: list[dict[str, Any]] = field(default_factory=list)
    _read: int = 0

    def lines(self) -> list[dict[str, Any]]:
        """Its lines; half a line is none yet."""
        with self.path.open("rb") as file:
            file.seek(self._read)
            whole, end, _ = file.read().rpartition(b"\n")
        self._read += len(whole) + len(end)
        self._found += map(json.loads, whole.splitlines())
        return self._found

    def said(self, name: str) -> dict[str, list[int]]:
        """By instance, the numbers of the lines that it said under a name."""
        return numbers(self.lines(), name)

    def await_all(self, name: str, count: int, instances: set[str], within_s: float) -> None:
        """Wait until each of ``instances`` is read to its last line."""

        def whole() -> bool:
            assert self.process.poll() is None
            found = self.said(name)
            return set(found) >= instances and all(found[each][-1] == count - 1 for each in instances)

        await_true(whole, within_s, f"all lines of {name}")


def numbers(lines: list[dict[str, Any]], name: str) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for line in lines:
        if line.get("text", "").startswith(f"{name} "):
            found[f"{line['host']}:{line['instance'].rpartition('-')[2]}"].append(int(line["text"].split()[1]))
    return found


@pytest.fixture(scope="module")
def talking(first_converge: tuple[Site, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Talking]:
    site, _ = first_converge
    found = Talking(site, talker_image(tmp_path_factory.mktemp("talker") / "talker"))
    site.apply(found.inventory())
    site.await_serving(found.inventory())
    yield found
    site.apply(LAB_YAML)


def test_lines_of_all_instances_are_merged_under_traffic(talking: Talking) -> None:
    began = int(time.time())
    with undisturbed("logs of all instances", URLS, AT_LEAST, rate=200):
        talking.say("merged", 500)
        await_true(lambda: len(numbers(talking.logs("talker", "--grep", "^merged 499 ")[1], "merged")) == 4)
        code, lines = talking.logs("talker", "--since", f"@{began}")
    assert code == 0
    assert {each: len(said) for each, said in numbers(lines, "merged").items()} == dict.fromkeys(INSTANCES, 500)
    times = [line["time"] for line in lines]
    assert times == sorted(times) and len({(one["host"], one["instance"]) for one in lines[:1000]}) > 1
    _, own = talking.logs("talker", "--host", "app2", "--instance", "8701", "--since", f"@{began}")
    assert numbers(own, "merged") == {"app2:8701": list(range(500))}
    assert talking.logs("talker", "--since", "now") == (0, [])


def test_thousands_of_lines_a_second_are_followed_without_a_loss(talking: Talking) -> None:
    count = 10_000
    with talking.followed() as followed:
        talking.say("ready", 1)
        followed.await_all("ready", 1, INSTANCES, 30)
        began_s = time.monotonic()
        talking.say("fast", count, per_s=2000)
        followed.await_all("fast", count, INSTANCES, 120)
        took_s = time.monotonic() - began_s
        # One that begins anew meanwhile is followed from its first line on.
        talking.site.ssh("app1", "systemctl restart fiefdom-talker@8700")
        talking.say("again", 10)
        followed.await_all("again", 10, INSTANCES, 30)
        said = followed.said("fast")
    whole = list(range(count))
    assert set(said) == INSTANCES and all(own == whole for own in said.values())
    print(f"followed {4 * count / took_s:.0f} lines a second from four instances")
    await_true(lambda: not left(talking.site), 20, "the end of what it began on hosts")


def test_over_a_restart_of_dockerd_no_line_is_left_out_and_none_comes_twice(talking: Talking) -> None:
    """As Docker has them in the end: what it lost itself nobody has."""
    count = 2000
    with talking.followed() as followed:
        talking.say("ready", 1)
        followed.await_all("ready", 1, INSTANCES, 30)
        talking.say("over", count, per_s=200)
        talking.site.ssh("app1", "systemctl restart docker")
        followed.await_all("over", count, INSTANCES, 120)
        talking.say("later", 1)
        followed.await_all("later", 1, INSTANCES, 30)
        said = followed.said("over")
    assert said == numbers(talking.logs("talker", "--grep", "^over ")[1], "over")
    talking.site.await_serving(talking.inventory())


def left(site: Site) -> str:
    """Processes of a reader of logs that are on hosts."""
    return "".join(site.ssh(host, "ps -eo args= | grep -E '^(docker logs|fold|sort -m)' || :") for host in HOSTS)


def test_a_host_that_is_cut_off_is_a_line_and_the_others_go_on(talking: Talking) -> None:
    on_app1 = {f"app1:{port}" for port in PORTS}
    with talking.followed() as followed:
        talking.say("before", 1)
        followed.await_all("before", 1, INSTANCES, 30)
        lab.disconnect("app2")
        try:
            talking.say("without", 100, hosts=("app1",))
            followed.await_all("without", 100, on_app1, 30)
            await_true(
                lambda: any("gone" in line for line in followed.lines()), LOST_S, "a line of the host that is gone"
            )
            code, lines = talking.logs("talker", "--grep", "^without 99 ")
        finally:
            lab.reconnect("app2")
        talking.say("after", 100, hosts=("app1",))
        followed.await_all("after", 100, on_app1, 30)
        gone = [line for line in followed.lines() if "gone" in line]
    assert [line["host"] for line in gone] == ["app2"]
    assert code == 3 and {line["host"] for line in lines if "gone" in line} == {"app2"}
    assert set(numbers(lines, "without")) == on_app1
    talking.site.await_serving(talking.inventory(), timeout_s=120)
    await_true(lambda: not left(talking.site), 60, "the end of what a reader began who was cut off")


def test_a_pipe_that_closes_ends_it_quietly(talking: Talking) -> None:
    talking.say("piped", 5000, per_s=5000)
    command = f"{BIN}/fiefdom logs {talking.inventory()} talker | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    first, code = done.stdout.splitlines()
    assert json.loads(first)["instance"] and (code, done.stderr) == ("141", "")
    await_true(lambda: not left(talking.site), 20, "the end of what it began on hosts")


def test_a_command_runs_in_an_instance(talking: Talking) -> None:
    inventory = talking.inventory()
    words = ["sh", "-c", 'cat; echo "$FIEFDOM_HOST:$FIEFDOM_PORT $1"; echo bad >&2; exit 7', "sh", "a  b"]
    argv = [str(BIN / "fiefdom"), "exec", inventory, "talker@app2:8701", "--", *words]
    done = subprocess.run(argv, cwd=ROOT, input="in\n", capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (7, "in\napp2:8701 a  b\n", "bad\n")
    acts = json.loads(talking.site.fiefdom("audit", inventory, "--json").stdout)["acts"]
    assert (acts[-1]["what"], acts[-1]["hosts"], acts[-1]["note"][:19]) == ("exec", ["app2"], "talker:8701: sh -c ")
    missing = talking.site.fiefdom("exec", inventory, "talker@app1", "no-such-program")
    assert missing.returncode in (126, 127) and "no-such-program" in missing.stderr + missing.stdout


def test_a_command_in_an_instance_has_a_terminal(talking: Talking) -> None:
    words = [
        "sh",
        "-c",
        "trap 'echo caught' INT; sleep 1; stty size; read x; echo got $x; read y || :; exit 5",
    ]
    argv = [str(BIN / "fiefdom"), "exec", talking.inventory(), "talker@app1", "--", *words]
    with terminal() as seen:
        own = os.open(seen.path, os.O_RDWR | os.O_NOCTTY)
        with subprocess.Popen(
            argv,
            cwd=ROOT,
            stdin=own,
            stdout=own,
            stderr=own,
            env={**os.environ, "TERM": "xterm"},
            start_new_session=True,
        ) as process:
            os.close(own)
            seen.await_true(lambda: "30 100" in seen.screen.text, "the size of the terminal")
            seen.type("hello\r")
            seen.await_true(lambda: "got hello" in seen.screen.text, "what was typed")
            seen.type("\x03")
            seen.await_true(lambda: "caught" in seen.screen.text, "Ctrl-C, which is the command's")
            seen.type("\x04")
            seen.await_true(lambda: process.poll() is not None, "its end")
        assert process.returncode == 5


def test_a_command_in_an_instance_ends_with_who_began_it(talking: Talking) -> None:
    argv = [str(BIN / "fiefdom"), "exec", talking.inventory(), "talker@app1:8700", "--", "sleep", "7531"]
    sleeps = "pgrep -fc '^sleep 7531' || :"
    with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        await_true(lambda: talking.site.ssh("app1", sleeps) == "1", 30, "the command")
        process.kill()
    await_true(lambda: talking.site.ssh("app1", sleeps) == "0", 30, "the command's end")


def test_a_login_is_the_inventorys(talking: Talking) -> None:
    done = talking.site.fiefdom("ssh", LAB_YAML, "app2", "--", "sh", "-c", 'id -un; echo "$1"; exit 4', "sh", "a  b")
    assert (done.returncode, done.stdout, done.stderr) == (4, "operator\na  b\n", "")
    assert talking.site.fiefdom("ssh", LAB_YAML, "app9").stderr.startswith("error: app9: no such host; hosts are gw1, ")


def test_requests_are_in_the_gateways_log_with_an_id(talking: Talking) -> None:
    logging = talking.inventory("access", access_log=True)
    with undisturbed("an access log that is turned on", URLS, AT_LEAST, rate=200):
        talking.site.apply(logging)
        talking.site.await_serving(logging)
        asked = urllib.request.Request(f"{GATEWAY_URL}/predict?features=1,1,1,1", headers={"X-Request-ID": "on-call-1"})
        with urllib.request.urlopen(asked, timeout=5) as answer:
            assert answer.headers["X-Request-ID"] == "on-call-1"
            body = json.load(answer)
        with urllib.request.urlopen(f"{GATEWAY_URL}:8083/x", timeout=5) as answer:
            given = answer.headers["X-Request-ID"]
        seen: list[dict[str, Any]] = []

        def both() -> bool:
            words = ("--gateway", "--since", "-5min", "--grep", f"on-call-1|{given}")
            seen[:] = talking.logs(*words, inventory=logging)[1]
            return len(seen) == 2

        await_true(both, 30, "both requests")
    one, other = (line["access"] for line in sorted(seen, key=lambda line: line["access"]["service"]))
    assert {"request_id": "on-call-1", "service": "predictor", "status": 200, "path": "/predict"}.items() <= one.items()
    assert one["instance"] == f"{body['host']}-{body['port']}" and one["total_ms"] >= one["answer_ms"] >= 0
    assert (other["request_id"], other["service"], other["path"]) == (given, "talker", "/x")
    code, own = talking.logs("talker", "--gateway", "--since", "-5min", "--grep", given, inventory=logging)
    assert code == 0 and [line["access"]["request_id"] for line in own] == [given]
    assert talking.site.plan(talking.inventory())[0] == 2, "turned off is another configuration"
    talking.site.apply(talking.inventory())
