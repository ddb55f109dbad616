"""Converge the address concern alone: `pyinfra inventories/lab.py deploys/address.py`."""

from fiefdom.engine import deploy

deploy("address")
