"""What an operator said of a service goes with it: one that comes back under its name begins anew."""

from collections.abc import Mapping
from pathlib import Path

from fiefdom_gateway import closed, kept, shares
from fiefdom_gateway.settings import Service


def forget(state_dir: Path, services: Mapping[str, Service]) -> tuple[str, ...]:
    """Take away what is kept of any but these services; return what went. Raises Failed or Unreadable."""
    closable = [name for name, service in services.items() if not service.is_tcp]
    went = kept.forget(closed.file_of(state_dir), closable)
    return tuple(f"{name} is closed" for name in went) + kept.forget(shares.file_of(state_dir), services)
