"""Containerised services on a handful of your own Debian hosts, behind a gateway, without Kubernetes."""

__all__ = ["RELEASE", "__version__"]

try:
    # Written by the build, by the tag. To look for the package's metadata would slow down every start.
    from fiefdom._version import __version__  # type: ignore[import-not-found, import-untyped, unused-ignore]
except ImportError:  # run as it lies, never built
    __version__ = "0.1.0.dev0"

RELEASE: str = __version__.partition("+")[0].partition(".dev")[0]
"""The release that this is, or that it leads to: what hosts are told, so that no mere commit restarts what they run."""
