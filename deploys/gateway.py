"""Converge the gateway concern alone: `pyinfra inventories/lab.py deploys/gateway.py`."""

from fiefdom.engine import deploy

deploy("gateway")
