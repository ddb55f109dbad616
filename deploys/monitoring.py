"""Converge the monitoring concern alone: `pyinfra inventories/lab.py deploys/monitoring.py`."""

from fiefdom import deploys as fiefdom

fiefdom.monitoring()
