"""Converge the docker concern alone: `pyinfra inventories/lab.py deploys/docker.py`."""

from fiefdom.engine import deploy

deploy("docker")
