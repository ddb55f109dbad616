"""When a certificate is to be got from an authority: pure, from what was tried, what there is, and two clocks."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# Of a certificate's life that is left when it is renewed, less up to a tenth of that, by chance: gateways that began
# together do not come together.
RENEW_SHARE = 1 / 3
SPREAD_SHARE = RENEW_SHARE / 10
# Let's Encrypt lets an account fail for a name 5 times an hour, and all gateways share that. So there is one try soon
# after the first, for what is mended at once, and none of it where gateways are many; then longer and longer pauses.
SOON_S = 120.0
PAUSES_S = (3600.0, 7200.0, 14400.0, 21600.0)
FEW_GATEWAYS = 2
# Whatever anybody asks for, be it a person: no more than this for a name in an hour.
MOST_TRIES = 5
HOUR_S = 3600.0


class BadAcme(ValueError):
    """acme.json cannot be used; the message says why."""


@dataclass(frozen=True)
class Asked:
    """acme.json: who is asked, with which account's key, and for which names."""

    directory: str
    account_key: Path
    names: tuple[str, ...]
    email: str | None = None
    ca_file: Path | None = None
    gateways: int = 1
    digest: str = ""


def parse_asked(text: str) -> Asked:
    """Return what acme.json asks for. Raises BadAcme."""
    try:
        data = json.loads(text)
        ca_file = data["ca_file"]
        names = tuple(data["names"])
        if not all(isinstance(name, str) and name and "/" not in name for name in names):
            raise BadAcme("names: must be host names")
        return Asked(
            directory=str(data["directory"]),
            account_key=Path(data["account_key"]),
            names=names,
            email=data["email"],
            ca_file=None if ca_file is None else Path(ca_file),
            gateways=int(data["gateways"]),
            # A name more or less is no reason to ask for the others once more.
            digest=hashlib.sha256(
                json.dumps({k: v for k, v in data.items() if k not in ("names", "gateways")}, sort_keys=True).encode()
            ).hexdigest()[:12],
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadAcme(f"not as it should be: {error!r}") from None


@dataclass(frozen=True)
class Moment:
    """One moment by two clocks: seconds since the host's boot `boot`, which nobody sets, and of time.time()."""

    boot: str
    up_s: float
    at_s: float


def elapsed_s(since: Moment, now: Moment) -> float:
    """Return seconds between two moments: by the clock that nobody sets where it is one boot's, else by the other."""
    return max(now.up_s - since.up_s if since.boot == now.boot else now.at_s - since.at_s, 0.0)


def anchored(since: Moment, now: Moment) -> Moment:
    """Return a moment of another boot as one of this boot, so that from now on the clock that nobody sets tells.

    One that the other clock has in the future, which was set back, is now: it would not come for long.
    """
    return since if since.boot == now.boot else Moment(now.boot, now.up_s - elapsed_s(since, now), since.at_s)


@dataclass(frozen=True)
class Facts:
    """When a certificate begins and ends, in seconds of time.time(); a placeholder is of the gateway's own making."""

    begins_s: float
    ends_s: float
    placeholder: bool = False

    @property
    def life_s(self) -> float:
        return max(self.ends_s - self.begins_s, 1.0)


@dataclass(frozen=True)
class History:
    """What was tried for a name. `failures` are in a row; `chance`, 0 to 1, spreads what gateways do together."""

    tries: tuple[Moment, ...] = ()
    failures: int = 0
    error: str | None = None
    obtained: Moment | None = None
    directory: str = ""
    asked: str = ""
    chance: float = 0.0


def wait_s(history: History, facts: Facts | None, asked: Asked, now: Moment, *, forced: bool = False) -> float:
    """Return seconds until the next try for a name; 0 where it is due."""
    due_s = 0.0 if forced else max(_due_s(history, facts, asked, now), _pause_left_s(history, asked, now))
    tried = recent(history, now)[-MOST_TRIES:]
    if len(tried) == MOST_TRIES:
        due_s = max(due_s, HOUR_S - elapsed_s(tried[0], now))
    return max(due_s, 0.0)


def recent(history: History, now: Moment) -> list[Moment]:
    """Return the tries that the bound of an hour counts."""
    return [one for one in history.tries if elapsed_s(one, now) < HOUR_S]


def _due_s(history: History, facts: Facts | None, asked: Asked, now: Moment) -> float:
    """Seconds until a certificate is wanted, which it is from a failure on until there is another one.

    By its end, or by its age where the clock was set back since; and never again within a third of its life, for a
    clock that is ahead finds each one over, however new.
    """
    if facts is None or facts.placeholder or history.directory != asked.directory or failed(history, asked):
        return 0.0
    left_s = facts.life_s * (RENEW_SHARE - SPREAD_SHARE * history.chance)
    by_end_s = facts.ends_s - left_s - now.at_s
    if history.obtained is None:
        return by_end_s
    age_s = elapsed_s(history.obtained, now)
    return max(min(by_end_s, facts.life_s - left_s - age_s), facts.life_s * RENEW_SHARE - age_s)


def failed(history: History, asked: Asked) -> bool:
    """Whether the last try of what is asked for now failed."""
    return history.failures > 0 and history.asked == asked.digest


def _pause_left_s(history: History, asked: Asked, now: Moment) -> float:
    """Seconds that are left of the pause after failures; what is asked for in another way is tried at once."""
    if not history.tries or not failed(history, asked):
        return 0.0
    pauses_s = (SOON_S, *PAUSES_S) if asked.gateways <= FEW_GATEWAYS else PAUSES_S
    pause_s = pauses_s[min(history.failures, len(pauses_s)) - 1] * (1 + history.chance / 10)
    return pause_s - elapsed_s(history.tries[-1], now)


def clock_is_off(facts: Facts, now: Moment) -> bool:
    """Whether a certificate that was got just now is not valid by this host's clock."""
    return not facts.begins_s - 60 <= now.at_s < facts.ends_s


# --- Across containers


def dump(histories: Mapping[str, History]) -> str:
    """Return what load reads."""
    return json.dumps({name: asdict(history) for name, history in sorted(histories.items())}, indent=1) + "\n"


def load(text: str, now: Moment) -> dict[str, History]:
    """Return what was tried before, as seen from now. What cannot be read was not."""
    try:
        data = json.loads(text)
        return {name: _history(row, now) for name, row in data.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def _history(row: Mapping[str, Any], now: Moment) -> History:
    obtained = row["obtained"]
    return History(
        tries=tuple(anchored(Moment(**one), now) for one in row["tries"]),
        failures=int(row["failures"]),
        error=row["error"],
        obtained=None if obtained is None else anchored(Moment(**obtained), now),
        directory=str(row["directory"]),
        asked=str(row["asked"]),
        chance=float(row["chance"]),
    )


# --- What is said of it


@dataclass(frozen=True)
class Told:
    """A name with what there is of it. `facts` are None for a placeholder."""

    name: str
    facts: Facts | None
    error: str | None = None
    failures: int = 0
    retry_in_s: float = field(default=0.0, compare=False)


def word(told: Iterable[Told]) -> str:
    """Return the lines that the host's plan reads: name, begin, end, and what went wrong last, apart by tabs."""
    return "".join(f"{one.name}\t{_span(one.facts)} {one.error or ''}".rstrip() + "\n" for one in told)


def _span(facts: Facts | None) -> str:
    return "- -" if facts is None else f"{int(facts.begins_s)} {int(facts.ends_s)}"
