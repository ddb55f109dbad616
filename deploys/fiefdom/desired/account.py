"""The account of Fiefdom's own containers on hosts: its name and number, and the entry that it is made from."""

from __future__ import annotations

from fiefdom.desired.render import render
from fiefdom.desired.state import Account, Directory, File, HostState

# As Debian names its own, and no login that a person may have chosen for Fiefdom's sake.
NAME = "_fiefdom"
# Debian's policy reserves 65000 to 65533 and gives none away; systemd's dynamic users end at 65519. Of 16 bits, so that
# a host may be in a user namespace; and not 65532, which the user of many an image is.
UID = 65530
ENTRY = "/etc/sysusers.d/fiefdom.conf"

# Only said, never done: a mistake in the entry ends a run before anything is placed.
_CHECK = ("systemd-sysusers", "--dry-run", "{}")


def with_account(state: HostState) -> HostState:
    """``state``, some of which belongs to the account, with the account."""
    entry = File(ENTRY, render("sysusers.conf.j2", name=NAME, uid=UID).encode(), check=_CHECK)
    return state + HostState(
        directories=(Directory("/etc/sysusers.d"),), files=(entry,), accounts=(Account(NAME, UID, ENTRY),)
    )
