"""Commands on a cluster that start no Python each: a process with the engine imported, which forks for every one.

What a fork runs is the command itself, with arguments, environment, exit code and output of its own; only interpreter
and imports are there already. The tests' own process must never import the engine (see tests/conftest.py).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 600


class Watch:
    """The process that is asked: started when it first is, anew where it died, and gone with this one.

    Threads take turns, for an answer does not say whose it is.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._turn = threading.Lock()

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str] | None:
        """What `fiefdom` says to ``arguments``; None where nobody could be asked."""
        return self._ask({"command": arguments})

    def whole(self, inventory: str) -> bool | None:
        """Whether the hosts hold what an inventory says and all of it serves; None where nobody could be asked."""
        done = self._ask({"whole": inventory})
        return None if done is None else done.returncode == 0

    def _ask(self, request: dict[str, Any]) -> subprocess.CompletedProcess[str] | None:
        with self._turn:
            return self._ask_now(request)

    def _ask_now(self, request: dict[str, Any]) -> subprocess.CompletedProcess[str] | None:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, __file__],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,  # an interrupt is for the tests, which then end this
            )
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(OSError, ValueError):
            self._process.stdin.write(json.dumps({**request, "environment": dict(os.environ)}) + "\n")
            self._process.stdin.flush()
            return subprocess.CompletedProcess(
                list(map(str, request.values())), *json.loads(self._process.stdout.readline())
            )
        self.end()
        return None

    def end(self) -> None:
        """Let the process go."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


# --- the process that is asked


def serve(requests: IO[str], answers: IO[str]) -> None:
    """Answer each request, a line of JSON, with [exit code, output, errors] of a process of its own."""
    fork, wait = os.fork, os.waitpid  # the engine puts gevent's in their place
    import gevent

    from fiefdom import engine  # noqa: F401

    for line in requests:
        request = json.loads(line)
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
            child = fork()
            if child == 0:
                gevent.reinit()
                _become(request, out, errors)
            code = os.waitstatus_to_exitcode(wait(child, 0)[1])
            said = [os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode() for file in (out, errors)]
        answers.write(json.dumps([code, *said]) + "\n")
        answers.flush()


def _become(request: dict[str, Any], out: IO[str], errors: IO[str]) -> NoReturn:
    signal.alarm(TIMEOUT_S)
    for number, file in ((0, Path(os.devnull).open()), (1, out), (2, errors)):  # noqa: SIM115
        os.dup2(file.fileno(), number)
    os.environ.clear()
    os.environ.update(request["environment"])
    code = 1
    try:
        if "whole" in request:
            _is_whole(request["whole"])
        else:
            _fiefdom(request["command"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _fiefdom(arguments: list[str]) -> NoReturn:
    from fiefdom.cli.main import main

    sys.argv = ["fiefdom", *arguments]
    sys.exit(main())


def _is_whole(inventory: str) -> NoReturn:
    """Exits 0 where there is nothing to change and all of it serves: `plan` and `status` from one look at each host."""
    from fiefdom import engine
    from fiefdom.cluster import status, views
    from fiefdom.converge import look
    from fiefdom.converge.run import Known
    from fiefdom.images import build
    from fiefdom.inventory import load, secret
    from fiefdom.procedures.tidy import with_spared

    cluster = load(inventory)
    known, names = Known(cluster, secret.load(cluster), build.identities(cluster)), tuple(cluster.hosts)
    with engine.Session(cluster, names) as session:
        _, wanted = with_spared(known, session, look.settled_plan(known, names, session, print))
        if not wanted.clean:
            sys.exit(2)
        seen = session.on_all(lambda name: views.gateway_view(session, name), cluster.gateways)
        found = status.combine(cluster, names, {host.host: host.snapshot for host in wanted.hosts}, seen)
    sys.exit(0 if found.serving else 2)


if __name__ == "__main__":
    serve(sys.stdin, sys.stdout)
