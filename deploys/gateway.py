"""Converge the gateway concern alone: `pyinfra inventories/lab.py deploys/gateway.py`."""

from fiefdom import deploys as fiefdom

fiefdom.gateway()
