"""Converge the sshd concern alone: `pyinfra inventories/lab.py deploys/sshd.py`."""

from fiefdom.engine import deploy

deploy("sshd")
