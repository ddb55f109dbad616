"""Converge the services concern alone: `pyinfra inventories/lab.py deploys/services.py`."""

from fiefdom import deploys as fiefdom

fiefdom.services()
