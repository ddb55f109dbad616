"""Converge the services concern alone: `pyinfra inventories/lab.py deploys/services.py`."""

from fiefdom.engine import deploy

deploy("services")
