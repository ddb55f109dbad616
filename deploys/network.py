"""Converge host networking and the firewall alone: `pyinfra inventories/lab.py deploys/network.py`."""

from fiefdom import deploys as fiefdom

fiefdom.network()
fiefdom.firewall()
