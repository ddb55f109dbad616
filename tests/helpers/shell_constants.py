"""Prints, as JSON by the name of their home, the constants of the library's modules that are shell, each once.

A program of its own: it imports every module, one of which lets gevent patch the standard library.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re

import fiefdom

# What shell is recognised by, at the top of a module: a parameter, a test or a command of ours at the start of a line.
SHELL = re.compile(r"\$\{?[@#0-9a-zA-Z_]|^\s*(if|for|while|docker|set|exec) ", re.MULTILINE)

# One that is only ever part of another is checked there: snapshot.sh and the supervisor.
PARTS = {("desired.containers", "FACTS")}

found: dict[str, str] = {}
for info in pkgutil.walk_packages(fiefdom.__path__, "fiefdom."):
    module = importlib.import_module(info.name)
    own = set(re.findall(r"^(\w+) = ", inspect.getsource(module), re.MULTILINE))
    for name, value in vars(module).items():
        short = info.name.removeprefix("fiefdom.")
        is_shell = name.strip("_").isupper() and isinstance(value, str) and SHELL.search(value)
        if is_shell and name in own and (short, name) not in PARTS:
            found.setdefault(value, f"{short}.{name}")
print(json.dumps({name: value for value, name in found.items()}))
