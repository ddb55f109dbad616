"""Converge the offers concern alone: `pyinfra inventories/lab.py deploys/offers.py`."""

from fiefdom.engine import deploy

deploy("offers")
