"""Converge the address concern alone: `pyinfra inventories/lab.py deploys/address.py`."""

from fiefdom import deploys as fiefdom

fiefdom.address()
