"""Converge the serf concern alone: `pyinfra inventories/lab.py deploys/serf.py`."""

from fiefdom import deploys as fiefdom

fiefdom.serf()
