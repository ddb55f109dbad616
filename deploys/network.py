"""Converge host networking and the firewall alone: `pyinfra inventories/lab.py deploys/network.py`."""

from fiefdom.engine import deploy

deploy("network", "firewall")
