"""Converge the sshd concern alone: `pyinfra inventories/lab.py deploys/sshd.py`."""

from fiefdom import deploys as fiefdom

fiefdom.sshd()
