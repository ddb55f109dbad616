"""Converge the offers concern alone: `pyinfra inventories/lab.py deploys/offers.py`."""

from fiefdom import deploys as fiefdom

fiefdom.offers()
