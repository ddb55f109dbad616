"""What a gateway says of a certificate that it gets itself, and what of that a person should know."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone

from fiefdom.model.certificates import days_left, lasts

_LATE_SHARE = 0.25
"""Of its life that is left when it is told of, whatever the gateway says: a third is when it should be renewed."""
SERVED_MEANWHILE = "the gateway serves one of its own making, which no client believes"


@dataclass(frozen=True)
class Obtained:
    """A host name, and begin and end of its certificate in seconds of time.time(): None where none was got yet.

    ``error`` is what came of the last try, where that failed.
    """

    name: str
    begins_s: float | None = None
    ends_s: float | None = None
    error: str | None = None

    def is_served(self, now_s: float) -> bool:
        """Whether clients can believe what the gateway has."""
        return self.ends_s is not None and now_s < self.ends_s

    def complaint(self, now_s: float) -> str | None:
        """What is to be said of it, if anything: without a full stop."""
        why = f": {self.error}" if self.error else ""
        if self.begins_s is None or self.ends_s is None:
            return f"there is no certificate for {self.name} yet{why or ', though it was asked for'}"
        ends = datetime.fromtimestamp(self.ends_s, timezone.utc)
        how_long = lasts(ends, days_left(ends, now_s))
        if self.error:
            return f"the certificate for {self.name}, which {how_long}, could not be renewed{why}"
        if self.ends_s - now_s < _LATE_SHARE * (self.ends_s - self.begins_s):
            return f"the certificate for {self.name} {how_long}, and should have been renewed by now"
        return None
