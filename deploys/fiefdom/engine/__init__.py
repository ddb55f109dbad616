"""pyinfra, and nothing else of Fiefdom knows it.

pyinfra 4 replaces gevent and paramiko; what has to change then stands in this package.
"""

from gevent import monkey

monkey.patch_all()  # before anything else opens a socket; the pyinfra command does the same

# ruff: noqa: E402 -- the imports below must see the patched modules
from fiefdom.engine import interrupts
from fiefdom.engine.session import Session

interrupts.heed()

__all__ = ["Session"]
