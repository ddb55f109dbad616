"""Files, group data and secrets in; one cluster out, or one clear line."""

from fiefdom.inventory.groups import fleet, groups_beside
from fiefdom.inventory.read import load

__all__ = ["fleet", "groups_beside", "load"]
