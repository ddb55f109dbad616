"""Converge the docker concern alone: `pyinfra inventories/lab.py deploys/docker.py`."""

from fiefdom import deploys as fiefdom

fiefdom.docker()
