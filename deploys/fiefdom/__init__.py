"""Containerised services on a handful of your own Debian hosts, behind a gateway, without Kubernetes."""

__version__ = "0.1.0"
