"""Secrets in the inventory: where their values come from, and the values themselves, which show nowhere."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter, WrapValidator, model_validator

from fiefdom.model.text import Argument, EnvText, FilePath, Many, Matches, Model, SecretName, has_unknown_key

HIDDEN = "***"
"""What stands in a secret's place."""
_LEAST_LETTERS = 4


@dataclass(frozen=True)
class Secrets:
    """Secret values of a cluster, and files that are read beside its inventory.

    The text of a secret never leaves for a log, plan or diff.
    """

    gossip_key: str = field(repr=False)
    """Serf's encryption key: 32 random bytes in base64."""
    values: Mapping[SecretSource, str] = field(default_factory=dict, repr=False)
    """Every other one by where it comes from: one line of text each."""
    contents: Mapping[str | SecretSource, bytes] = field(default_factory=dict, repr=False)
    """Content of services' files and of certificates with their keys, by where it comes from: a path as the inventory
    has it, or a secret of any shape."""
    other_gossip_keys: tuple[str, ...] = field(default=(), repr=False)
    """Keys that agents understand beside it, while one key gives way to another."""

    def text(self, value: str | SecretSource) -> str:
        """What stands in the inventory, or what it refers to."""
        return self.values[value] if isinstance(value, SecretSource) else value

    def hidden_in(self, text: str) -> str:
        """``text`` with `***` for each secret; a short one is a part of any word, so it counts where it is one."""
        for secret in sorted(set(map(str.strip, self._texts())) - {""}, key=len, reverse=True):
            if len(secret) >= _LEAST_LETTERS:
                text = text.replace(secret, HIDDEN)
            else:
                text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", HIDDEN, text)
        return text

    def _texts(self) -> Iterator[str]:
        """What is secret, of a file also each of its lines. Other files have lines that stand anywhere."""
        yield from (self.gossip_key, *self.other_gossip_keys, *self.values.values())
        for source, content in self.contents.items():
            if isinstance(source, SecretSource):
                text = content.decode(errors="replace")
                yield from (text, *text.splitlines())


SOURCES = ("env", "command", "secret")
# Private, for some write the secret itself there.
_VARIABLE = Matches("[A-Za-z_][A-Za-z0-9_]*", "the name of an environment variable", private=True)


class SecretSource(Model):
    """Where a secret comes from: one of three places, none of them the inventory."""

    model_config = ConfigDict(
        json_schema_extra={
            "patternProperties": {"^x-": {}},
            "oneOf": [{"required": [name]} for name in SOURCES],
        },
    )

    env: Annotated[str, _VARIABLE] | None = Field(
        None, description="Environment variable of the operator that holds it."
    )
    command: Annotated[Many[Argument], Field(min_length=1)] | None = Field(
        None,
        description="Command that prints it, as a list such as [pass, show, web/token]; "
        "run without a shell in the inventory's folder, on the operator's machine.",
    )
    secret: SecretName | None = Field(None, description="Name under which the encrypted file `secrets.file` holds it.")

    @model_validator(mode="before")
    @classmethod
    def _exactly_one(cls, value: object) -> object:
        mend = "write one of {env: NAME}, {command: [PROGRAM, ARGUMENT]}, {secret: NAME}"
        if isinstance(value, SecretSource):
            return value
        if not isinstance(value, dict):
            # Not told what stands there: it may be the secret itself.
            raise ValueError(f"a secret does not stand in the inventory, only where it comes from; {mend}")
        # What stands there without a value is not told: it may be the secret itself.
        given = {name: content for name, content in value.items() if content is not None}
        names = [name for name in SOURCES if name in given]
        if len(names) != 1 and not has_unknown_key(cls, given):
            raise ValueError(f"has {' and '.join(names) or 'no source'}; {mend}")
        return value

    def __str__(self) -> str:
        """As a person would say it."""
        if self.env is not None:
            return f"the environment variable {self.env}"
        if self.command is not None:
            return f"the command `{shlex.join(self.command)}`"
        return f"the secret {self.secret}"


_ENV_TEXT: TypeAdapter[str] = TypeAdapter(EnvText, config=ConfigDict(strict=True))


def _text_or_source(value: object, _: object) -> str | SecretSource:
    # Not pydantic's own choice, which complains of either kind in words that no person has written.
    if isinstance(value, dict | SecretSource):
        return SecretSource.model_validate(value)
    return _ENV_TEXT.validate_python(value)


_FILE_PATH: TypeAdapter[str] = TypeAdapter(FilePath, config=ConfigDict(strict=True))


def _path_or_source(value: object, _: object) -> str | SecretSource:
    # Not pydantic's own choice, as above.
    if isinstance(value, dict | SecretSource):
        return SecretSource.model_validate(value)
    if isinstance(value, str) and "-----BEGIN" in value:
        # Not told what stands there: it may be the key itself.
        raise ValueError("a certificate or key does not stand in the inventory; write the path of a file, or a source")
    return _FILE_PATH.validate_python(value)


FileOrSource = Annotated[FilePath | SecretSource, WrapValidator(_path_or_source)]

EnvValue = Annotated[EnvText | SecretSource, WrapValidator(_text_or_source)]
