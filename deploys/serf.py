"""Converge the serf concern alone: `pyinfra inventories/lab.py deploys/serf.py`."""

from fiefdom.engine import deploy

deploy("serf")
