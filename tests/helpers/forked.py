"""Programs in processes of their own, forked from one that has imported the library already.

A start from nothing costs a second and a half of imports, and tests start some hundred. Each program still is a process
with its own memory, arguments, environment, folder, streams and end, so what it patches, and how it exits, is its own.
A test of what a start loads must not use this.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

LIBRARY = Path(__file__).parents[2] / "deploys" / "fiefdom"

# Not that of the test which happens to need the parent first.
_ENVIRONMENT = dict(os.environ)

COMMAND = "from fiefdom.cli.main import main\nmain(prog_name='fiefdom')"
"""The command as its entry point runs it."""

# The first imports come before gevent patches them. A child leaves the loop and ends as any program does: its threads
# are joined, its exit handlers run, and an error is printed with its traceback.
_PARENT = """
import gc, json, os, signal, sys
from importlib import import_module
fork, wait = os.fork, os.wait

# A shell has its background jobs ignore it, and all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
import fiefdom.engine
for module in json.loads(sys.stdin.readline()):
    import_module(module)
gc.freeze()  # else a child's first collection copies all of it

print(flush=True)
for line in sys.stdin:
    if not fork():
        break
    print(os.waitstatus_to_exitcode(wait()[1]), flush=True)
else:
    os._exit(0)
asked = json.loads(line)
for number, path in enumerate(asked["streams"]):
    os.dup2(os.open(path, os.O_RDWR), number)
os.chdir(asked["cwd"])
os.environ.clear()
os.environ.update(asked["env"])
sys.argv[1:] = asked["arguments"]
sys.path[1:1] = filter(None, asked["env"].get("PYTHONPATH", "").split(os.pathsep))
exec(compile(asked["program"], "<string>", "exec"), {"__name__": "__main__"})
"""


def _modules() -> list[str]:
    """Those of the engine and of the commands; they import all others."""
    return sorted(
        f"fiefdom.{folder}.{path.stem}" for folder in ("engine", "cli") for path in (LIBRARY / folder).glob("[!_]*.py")
    )


class _Parent:
    """The process that is forked, one for each worker of the tests, which asks it for one child after the other."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", _PARENT]
        self._process = subprocess.Popen(
            command,
            cwd=LIBRARY,
            env=_ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._send(_modules())
        self._answer()  # its start is nobody's time but its own

    def _send(self, message: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def code(self, asked: Mapping[str, object], timeout_s: float | None) -> int:
        """How the child ended: its exit code, or a signal's number below 0.

        Raises subprocess.TimeoutExpired.
        """
        assert self._process.stdout is not None
        self._send(asked)
        with selectors.DefaultSelector() as ready:
            ready.register(self._process.stdout, selectors.EVENT_READ)
            if not ready.select(timeout_s):
                raise subprocess.TimeoutExpired(str(asked["program"]), timeout_s or 0)
        return int(self._answer())

    def end(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)  # with a child that hangs
        self._process.communicate()


@functools.cache
def _parent() -> _Parent:
    return _Parent()


@atexit.register
def _end() -> None:
    if _parent.cache_info().currsize:
        _parent().end()


def run(
    program: str,
    *arguments: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    timeout_s: float | None = None,
    terminal: str = "",
) -> subprocess.CompletedProcess[str]:
    """What ``python -c program arguments...`` does; without ``env``, in the test's own environment.

    Where there is the path of a ``terminal``, all its streams are that.
    """
    with tempfile.TemporaryDirectory() as name:
        streams = [Path(name, stream) for stream in ("stdin", "stdout", "stderr")]
        for path, text in zip(streams, (stdin, "", ""), strict=True):
            path.write_text(text)
        asked = {
            "program": program,
            "arguments": arguments,
            "cwd": str(cwd or Path.cwd()),
            "env": dict(os.environ if env is None else env),
            "streams": [terminal or str(path) for path in streams],
        }
        try:
            code = _parent().code(asked, timeout_s)
        except subprocess.TimeoutExpired:
            # Its answer would be taken for that of the next one.
            _parent().end()
            _parent.cache_clear()
            raise
        stdout, stderr = (path.read_text() for path in streams[1:])
    return subprocess.CompletedProcess([program, *arguments], code, stdout, stderr)


def fiefdom(*arguments: str, cwd: Path | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """What the command ``fiefdom arguments...`` does."""
    return run(COMMAND, *arguments, cwd=cwd, stdin=stdin)
