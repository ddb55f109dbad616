"""Files, group data and secrets in; one cluster out, or one clear line."""

from fiefdom.inventory.read import groups_beside, load

__all__ = ["groups_beside", "load"]
