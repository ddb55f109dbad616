"""The versions behind the codes of `packed`: from what hosts offered before, and from what they say when they ask."""

from collections.abc import Iterable

from fiefdom_gateway import packed
from fiefdom_gateway.members import Member


class VersionNames:
    """Versions by service and code. What no host offers any more is forgotten at the next `refresh`."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, str], str] = {}
        self.news = False

    def hear(self, member: Member | None, service: str | None, version: str) -> bool:
        """Take up a version that a host says, where it offers the service by the code of that; whether it is news."""
        heard = packed.code(version)
        offered = {offer.service: offer.version for offer in ([] if member is None else member.offers)}
        if service is None or packed.is_known(offered.get(service, "")) or offered[service][1:] != heard:
            return False
        if self._names.get((service, heard)) == version:
            return False  # the look that takes it up may be on its way still
        self._names[service, heard] = version
        self.news = True
        return True

    def refresh(self, members: Iterable[Member], read: Iterable[Member]) -> packed.Names:
        """Return the versions by which codes are read now; `members` are those remembered, `read` those listed last.

        Who is listed and not believed names no version that others offer.
        """
        found = {
            (offer.service, packed.code(offer.version)): offer.version
            for member in members
            for offer in member.offers
            if packed.is_known(offer.version)
        }
        for member in read:
            for offer in member.offers:
                known = packed.is_known(offer.version)
                key = offer.service, packed.code(offer.version) if known else offer.version[1:]
                if key in self._names:
                    found.setdefault(key, self._names[key])
        self._names, self.news = found, False
        return dict(found)
