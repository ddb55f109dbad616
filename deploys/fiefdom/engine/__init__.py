"""pyinfra, and nothing else of Fiefdom knows it.

pyinfra 4 replaces gevent and paramiko; what has to change then stands in this package.
"""

from gevent import events, monkey

# At each of its two dozen steps it would look for plugins of its own in all that is installed, a fifth of a second.
_search, events.notify_and_call_entry_points = events.notify_and_call_entry_points, events.notify
monkey.patch_all()  # before anything else opens a socket; the pyinfra command does the same
events.notify_and_call_entry_points = _search

# ruff: noqa: E402 -- the imports below must see the patched modules
from fiefdom.engine import interrupts
from fiefdom.engine.session import Session

interrupts.heed()

__all__ = ["Session"]
