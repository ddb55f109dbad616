"""A static part that HAProxy does not run: which, why, and when it is worth another try."""

from dataclasses import dataclass

from fiefdom_gateway.edges import Refused

# What is no verdict of HAProxy's on the text passes: a port that is taken, a full disk, a reload that took too long.
FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 60.0


@dataclass(frozen=True)
class Refusal:
    """`digest` is None where there was no text to try.

    `again_at_s`, of time.monotonic(), is None where another try of the same text would end the same.
    """

    digest: str | None
    reason: str
    again_at_s: float | None = None
    pause_s: float = 0.0

    def allows(self, digest: str, now_s: float) -> bool:
        """Whether a text is worth a try now."""
        return digest != self.digest or (self.again_at_s is not None and now_s >= self.again_at_s)


def refused(
    digest: str | None, error: Exception, before: Refusal | None, now_s: float, *, names_files: bool = False
) -> Refusal:
    """Return the refusal of a text, whose pauses double as long as nothing but the same comes after `before`.

    What HAProxy refuses of a text that names files may be one of these, which is mended without another text: of a key
    the text has no digest. So it is tried again, without growing pauses, for an `apply` waits for it.
    """
    if digest is None or (isinstance(error, Refused) and not names_files):
        return Refusal(digest, str(error))
    if isinstance(error, Refused):
        return Refusal(digest, str(error), now_s + FIRST_PAUSE_S, FIRST_PAUSE_S)
    grown_s = 2 * before.pause_s if before is not None and before.digest == digest else 0.0
    pause_s = min(max(FIRST_PAUSE_S, grown_s), LONGEST_PAUSE_S)
    return Refusal(digest, str(error), now_s + pause_s, pause_s)
