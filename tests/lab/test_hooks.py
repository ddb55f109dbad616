"""Hooks of the operator's own and a chat: around a release, one that is forbidden, one that is broken, an interrupt."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from helpers.operator_view import BIN, GATEWAY_URL, LAB_YAML, ROOT, Site, await_true, undisturbed

pytestmark = pytest.mark.proof

URLS = {"predictor": f"{GATEWAY_URL}/predict"}
AT_LEAST = 3_000
HOSTS = ("app1", "app2")
VARIABLE, PATH = "FIEFDOM_TEST_CHAT", "/hooks/swordfish"
# One program for all three, which fails where a secret reaches it. What it is told is a line in `told` each time.
HOOK = r"""#!/bin/sh
set -eu
echo "hears of $FIEFDOM_EVENT"
if env | grep -q swordfish; then exit 9; fi
printf '%s|' "$FIEFDOM_EVENT" "$FIEFDOM_ACT" "$FIEFDOM_CLUSTER" "$FIEFDOM_SERVICE" "$FIEFDOM_PREVIOUS" \
    "$FIEFDOM_VERSION" "$FIEFDOM_HOSTS" "$FIEFDOM_WAITING" "$FIEFDOM_WHO" >>told
echo "$FIEFDOM_ERROR" >>told
[ "$FIEFDOM_EVENT" = before ] || exit 0
[ ! -e slow ] || { echo $$ >slow; echo "at work"; sleep 300; }
[ ! -e freeze ] || { echo "frozen until Monday" >&2; exit 1; }
"""


@dataclass
class Desk:
    """The operator's machine: the lab with hooks beside its inventory, and a chat that hears."""

    site: Site
    heard: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.site.scratch

    def inventory(self, version: str = "1.0.0", **changes: Any) -> str:
        def change(data: dict[str, Any]) -> None:
            data["services"]["predictor"] |= {"version": version, **changes}
            data["rollout"] = {"soak_s": 1}
            data["hooks"] = {**dict.fromkeys(("before", "after", "failed"), "hook"), "timeout_s": 300}
            events = ["began", "ended", "failed"]
            data["notify"] = {"webhook": {"env": VARIABLE}, "format": "fields", "events": events}

        return self.site.inventory(f"hooks-{version}", change)

    def told(self) -> list[list[str]]:
        """What the hooks were told since somebody last asked."""
        path = self.folder / "told"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [line.split("|") for line in lines]

    def chats(self) -> list[str]:
        """What the chat heard since somebody last asked."""
        found = [document["text"] for _, document in self.heard]
        self.heard.clear()
        return found

    def started(self) -> list[str]:
        """Of each host, which containers run the service, and since when."""
        look = "docker inspect --format '{{.Id}} {{.State.StartedAt}}' predictor-8000 predictor-8001"
        return [self.site.ssh(host, look) for host in HOSTS]

    def acts(self) -> list[str]:
        done = self.site.fiefdom("audit", self.inventory(), "--json")
        assert done.returncode == 0, done.stderr
        return [act["run"] for act in json.loads(done.stdout)["acts"]]


@pytest.fixture(scope="module")
def desk(first_converge: tuple[Site, str]) -> Iterator[Desk]:
    site, _ = first_converge
    found = Desk(site)
    if not site.whole():
        site.converge()
        site.await_serving()
    (found.folder / "hook").write_text(HOOK)
    (found.folder / "hook").chmod(0o755)

    class Chat(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.heard.append((self.path, json.loads(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Chat) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, f"http://127.0.0.1:{server.server_port}{PATH}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield found
        server.shutdown()
    site.converge(LAB_YAML)
    site.await_serving(LAB_YAML)


def test_a_release_runs_them_and_tells_the_chat(desk: Desk) -> None:
    assert desk.site.plan(desk.inventory())[0] == 0, "hosts know nothing of them"
    inventory = desk.inventory("1.1.0")
    with undisturbed("a release with hooks", URLS, AT_LEAST, rate=300):
        done = desk.site.fiefdom("rollout", inventory)
    assert done.returncode == 0, done.stdout + done.stderr
    said = [line.split(maxsplit=2)[2] for line in done.stdout.splitlines() if " s  " in line]
    first_turn = next(number for number, words in enumerate(said) if words.endswith(" drain"))
    assert [number < first_turn for number, words in enumerate(said) if words.split()[-1] in ("before", "after")] == [
        *(True, True),
        *(False, False),
    ]
    before, after = desk.told()
    assert before == ["before", "rollout", "lab", "predictor", "1.0.0", "1.1.0", "app1 app2", "", before[8], ""]
    assert after == ["after", *before[1:]] and "@" in before[8]
    assert {path for path, _ in desk.heard} == {PATH}
    assert [document["event"] for _, document in desk.heard] == ["began", "ended"]
    assert desk.heard[1][1]["services"] == {"predictor": {"from": "1.0.0", "to": "1.1.0"}}
    began, ended = desk.chats()
    assert began == f"lab: rollout of predictor 1.0.0 -&gt; 1.1.0 on app1, app2 began, by {before[8]}"
    assert ended.startswith("lab: rollout of predictor 1.0.0 -&gt; 1.1.0 on app1, app2 ended after ")
    assert "swordfish" not in done.stdout + done.stderr


def test_the_one_before_forbids_a_release_and_nothing_is_changed(desk: Desk) -> None:
    inventory, before, acts = desk.inventory("1.2.0"), desk.started(), desk.acts()
    (desk.folder / "freeze").touch()
    with undisturbed("a release that a hook forbids", URLS, AT_LEAST, rate=300):
        done = desk.site.fiefdom("rollout", inventory)
    (desk.folder / "freeze").unlink()
    assert done.returncode == 1
    assert "before: frozen until Monday\n" in done.stdout
    says = "hooks.before: hook ended with exit code 1; no host was changed"
    assert f"error: {says}\n" in done.stderr
    assert desk.started() == before and desk.acts() == acts
    assert [(line[0], line[-1]) for line in desk.told()] == [("before", ""), ("failed", says)]
    (only,) = desk.chats()
    assert only.endswith(f": {says}")


def test_a_release_that_is_broken_runs_the_one_for_failures(desk: Desk) -> None:
    broken = desk.inventory("1.2.0", environment={"FAIL_HEALTH": "1"}, health={"path": "/health", "start_timeout_s": 4})
    with undisturbed("a broken release with hooks", URLS, AT_LEAST, rate=300):
        done = desk.site.fiefdom("rollout", broken)
    assert done.returncode == 1
    before, failed = desk.told()
    assert (before[0], failed[0], failed[5]) == ("before", "failed", "1.2.0")
    assert failed[-1].startswith("app1: ") and "predictor" in failed[-1]
    began, ended = desk.chats()
    assert " began, by " in began and " failed after " in ended and f", by {failed[8]}: app1: " in ended
    everybody = {f"{host}:{port}" for host in HOSTS for port in (8000, 8001)}
    await_true(lambda: desk.site.rotation(LAB_YAML) == everybody, what="everybody back in rotation")


def test_an_interrupt_of_the_one_before_is_a_failure_and_leaves_nothing(desk: Desk) -> None:
    inventory, before = desk.inventory("1.2.0"), desk.started()
    slow = desk.folder / "slow"
    slow.touch()
    argv, pipe = [str(BIN / "fiefdom"), "rollout", inventory], subprocess.PIPE
    with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True) as run:
        assert run.stdout is not None
        assert any(line.endswith("before: at work\n") for line in run.stdout), "it is at work"
        process = int(slow.read_text())
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=60)
    slow.unlink()
    assert run.returncode == 1 and err.startswith("error: interrupted")
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    assert desk.started() == before
    assert [(line[0], line[-1]) for line in desk.told()] == [("before", ""), ("failed", "interrupted")]
    assert [text.rpartition(": ")[2] for text in desk.chats()] == ["interrupted"]
    # The lock is free, and a chat that is away costs a rollback nothing but a word.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, f"http://127.0.0.1:9{PATH}")
        done = desk.site.fiefdom("rollback", desk.inventory("1.1.0"), "predictor", "1.0.0", "--yes", "--force")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nobody was told that it began: notify.webhook cannot be reached (Connection refused)" in done.stdout
    assert [line[:2] for line in desk.told()] == [["before", "rollback"], ["after", "rollback"]]
    assert "swordfish" not in done.stdout + done.stderr
