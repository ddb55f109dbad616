"""Files of the state folder that are written where their text is another one, and no oftener."""

from pathlib import Path

from fiefdom_gateway import edges
from fiefdom_gateway.edges import Failed
from fiefdom_gateway.log import Once


class Written:
    """What was written last, by file."""

    def __init__(self, say_once: Once) -> None:
        self._texts: dict[Path, str] = {}
        self._say_once = say_once

    def has(self, path: Path, text: str) -> bool:
        """Whether a file was given this text last."""
        return self._texts.get(path) == text

    def write(self, path: Path, text: str) -> None:
        """Raises Failed."""
        if not self.has(path, text):
            edges.write_atomically(path, text)
            self._texts[path] = text

    def try_write(self, path: Path, text: str) -> bool:
        """Write a file, or say why it cannot be; whether it has that text."""
        try:
            self.write(path, text)
        except Failed as error:
            self._say_once(f"write {path}", str(error))
            return False
        self._say_once(f"write {path}", None, mended=f"{path} is written again")
        return True

    def forget(self, *paths: Path) -> None:
        """Write these anew next time; all where none is named, for somebody else may have written them."""
        for path in paths or tuple(self._texts):
            self._texts.pop(path, None)
