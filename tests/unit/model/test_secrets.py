"""What is secret, taken out of what others are told."""

from __future__ import annotations

import pytest

from fiefdom.model import Secrets, SecretSource

GOSSIP_KEY = "Z29zc2lw"
SECRETS = Secrets(
    GOSSIP_KEY,
    values={
        SecretSource(env=f"V{n}"): text for n, text in enumerate(("hunter-1", "hunter-12", "a1b", "7", "", " ", "d$"))
    },
    contents={SecretSource(env="FILE"): b"user=me\n  pass=swordfish\r\n\n", "motd": b"plain words\n"},
    other_gossip_keys=("older-key",),
)


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        (f"x{GOSSIP_KEY}y and older-key", "x***y and ***"),
        ("hunter-123 hunter-12 hunter-1", "***3 *** ***"),
        ("user=me or pass=swordfish", "*** or ***"),
        ("plain words", "plain words"),
        # Short ones are parts of many words.
        ("a1b a1bc xa1b -pa1b", "*** a1bc xa1b -pa1b"),
        ("pin=a1b, (a1b) 'a1b'", "pin=***, (***) '***'"),
        ("exit code 7, 17 of app7", "exit code ***, 17 of app7"),
        ("cost d$.", "cost ***."),
        ("", ""),
    ],
)
def test_each_is_hidden_and_nothing_else(text: str, hidden: str) -> None:
    assert SECRETS.hidden_in(text) == hidden
