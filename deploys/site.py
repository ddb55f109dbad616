"""Converge every host of an inventory: `pyinfra inventories/lab.py deploys/site.py`."""

from fiefdom import deploys as fiefdom

fiefdom.site()
