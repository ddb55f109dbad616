"""`--verbose`: each round trip to a host, as it ends."""

from __future__ import annotations

import logging

import click


class _Told(logging.Handler):
    """Prints where warnings go: not to the stream as it was, for a live line of progress has taken its place."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(f"{record.relativeCreated / 1000:8.3f} s  {record.getMessage()}", err=True)


def _heed(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    log = logging.getLogger("fiefdom.hosts")
    if not wanted or ctx.resilient_parsing or any(isinstance(handler, _Told) for handler in log.handlers):
        return
    handler = _Told()
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    log.propagate = False
    ctx.find_root().call_on_close(lambda: log.removeHandler(handler))


def option() -> click.Option:
    """The option, for a command that asks hosts."""
    return click.Option(
        ["--verbose", "-v"],
        is_flag=True,
        expose_value=False,
        callback=_heed,
        help="Tell each round trip to a host and its seconds, on standard error.",
    )
