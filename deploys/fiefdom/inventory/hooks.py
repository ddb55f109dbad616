"""Programs of the operator's own: whether they are there, and what of his environment they are given."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from fiefdom.errors import FiefdomError
from fiefdom.inventory import secret
from fiefdom.model import Cluster, Problem, SecretSource
from fiefdom.model.hooks import require_webhook
from fiefdom.model.mounts import ServiceFile
from fiefdom.wording import KeyPath, dotted

_WEBHOOK: KeyPath = ("notify", "webhook")


def problems(cluster: Cluster) -> Iterator[Problem]:
    """Programs that are not there, or cannot be run."""
    for key, written in cluster.hooks.programs():
        path = cluster.path_here(written)
        try:
            is_file, is_there = path.is_file(), path.exists()
        except OSError as error:
            yield key, f"{path} cannot be looked at ({error.strerror}); correct the path"
            continue
        if not is_there:
            yield key, f"there is no file {path}; correct the path, which begins in the inventory's folder"
        elif not is_file:
            yield key, f"{path} is no file; name a program"
        elif not os.access(path, os.X_OK):
            yield key, f"{path} cannot be run; type: chmod +x {path}"


def require(cluster: Cluster, act: str) -> None:
    """Raise FiefdomError for a program that is to run around ``act``, and cannot be."""
    for key, says in problems(cluster) if act in cluster.hooks.acts else ():
        raise FiefdomError(f"{dotted(key)}: {says}")


def environment(cluster: Cluster, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The operator's environment less the variables that hold secrets of the cluster."""
    environ = os.environ if environ is None else environ
    hidden = {secret.VARIABLE, secret.NEXT_VARIABLE, *(source.env for source in _sources(cluster))}
    return {name: value for name, value in environ.items() if name not in hidden}


def webhook(cluster: Cluster, environ: Mapping[str, str] | None = None) -> str:
    """The URL that messages are posted to; empty where there is none.

    Raises:
        FiefdomError: it is a secret that is missing, or that is no such URL. It is never told.
    """
    found = cluster.notify.webhook if cluster.notify is not None else ""
    if not isinstance(found, SecretSource):
        return found
    url = secret.values_of(cluster, {"url": (_WEBHOOK, found)}, environ)["url"]
    try:
        return require_webhook(url)
    except ValueError as error:
        raise FiefdomError(f"{dotted(_WEBHOOK)}: {found} {error}") from None


def _sources(value: Any) -> Iterator[SecretSource]:
    """Every source anywhere in the inventory, whether a host uses it or not."""
    if isinstance(value, SecretSource):
        yield value
    elif isinstance(value, ServiceFile):
        yield from () if value.source is None else (value.source,)
    elif isinstance(value, BaseModel):
        for _, inner in value:
            yield from _sources(inner)
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _sources(inner)
    elif isinstance(value, tuple):
        for inner in value:
            yield from _sources(inner)
