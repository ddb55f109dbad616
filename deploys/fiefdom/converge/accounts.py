"""The account of containers on a host: whether its name and number are free, and whether it is there."""

from __future__ import annotations

from collections.abc import Iterator

from fiefdom.converge.snapshot import Snapshot
from fiefdom.desired.state import Account, HostState
from fiefdom.errors import FiefdomError


def require_free(host: str, state: HostState, now: Snapshot) -> None:
    """Raise FiefdomError where an account that is wanted has another number on ``host``, or its number is another's.

    systemd-sysusers would then take another number, in silence, and the files would be somebody else's.
    """
    for wanted in state.accounts:
        for is_taken in (_taken_name(wanted, now), _taken_number(wanted, now)):
            if is_taken:
                raise FiefdomError(f"{host}: {is_taken}")


def _taken_name(wanted: Account, now: Snapshot) -> str:
    name, uid = wanted.name, wanted.uid
    user, group = now.users.get(name, (uid, uid)), now.groups.get(name, uid)
    if user != (uid, uid):
        found = f"a user {name} is there with uid {user[0]} and gid {user[1]}"
    elif group != uid:
        found = f"a group {name} is there with gid {group}"
    else:
        return ""
    mend = f"another name with `usermod --login NAME {name}` and `groupmod --new-name NAME {name}`, or remove it"
    if ("account", name) in now.made:
        mend = f"that back with `groupmod --gid {uid} {name}` and `usermod --uid {uid} --gid {uid} {name}`"
    return f"{found}, and Fiefdom's containers run as the {name} of {uid}; give it {mend}"


def _taken_number(wanted: Account, now: Snapshot) -> str:
    name, uid = wanted.name, wanted.uid
    users = [f"uid {uid} is the user {user}'s" for user, (has, _) in now.users.items() if has == uid and user != name]
    groups = [f"gid {uid} is the group {group}'s" for group, has in now.groups.items() if has == uid and group != name]
    for whose in (*users, *groups):
        return f"{whose}, and Fiefdom's containers run as it; give it another (`usermod --uid`, `groupmod --gid`)"
    return ""


def missing(state: HostState, now: Snapshot) -> Iterator[tuple[Account, str]]:
    """The accounts that are to be made, and why."""
    for wanted in state.accounts:
        if wanted.name not in now.users:
            yield wanted, f"uid and gid {wanted.uid}"
        elif wanted.name not in now.groups:
            yield wanted, "its group is missing"
