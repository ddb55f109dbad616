"""Where Fiefdom's own files are: beside the library in a checkout, inside it where it was installed from a wheel."""

from __future__ import annotations

from pathlib import Path

from fiefdom.errors import FiefdomError

_LIBRARY = Path(__file__).resolve().parent
_REPOSITORY = _LIBRARY.parents[1]


def checkout() -> Path | None:
    """The repository that this library is run from; None where it was installed."""
    return _REPOSITORY if (_REPOSITORY / "pyproject.toml").is_file() else None


def templates_dir() -> Path:
    """The folder of the Jinja2 templates. Raises FiefdomError where this installation lacks it."""
    return _having("templates", "haproxy.cfg.j2")


def images_dir() -> Path:
    """The folder of the containers' build contexts. Raises FiefdomError where this installation lacks it."""
    return _having("images", "bases.lock")


def monitoring_dir() -> Path:
    """The folder of alert rules and the dashboard. Raises FiefdomError where this installation lacks it."""
    return _having("monitoring", "alerts.yml")


def _having(name: str, file: str) -> Path:
    for folder in (_LIBRARY / "data" / name, _REPOSITORY / name):
        if (folder / file).is_file():
            return folder
    raise FiefdomError(f"{name}/{file} is missing from this installation; install Fiefdom anew")
