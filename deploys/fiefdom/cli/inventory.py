"""`fiefdom build`, `keygen`, `secret`, `docs` and `schema`: what needs no host."""

from __future__ import annotations

import os
import sys

import click

from fiefdom.cli.frame import Command, Document, Local, inventory_argument, loaded
from fiefdom.cli.group import Family
from fiefdom.cli.outlet import is_terminal
from fiefdom.errors import FiefdomError
from fiefdom.images import build as build_module
from fiefdom.images.build import ensure, wanted
from fiefdom.inventory import key_docs, reference, vault
from fiefdom.inventory import secret as secrets
from fiefdom.wording import printable


@click.command(cls=Local)
@inventory_argument
@click.option("--contents", is_flag=True, help="Then list what is in each image: its base and its Debian packages.")
def build(inventory: str, contents: bool) -> Document:
    """Build the cluster's images on this machine, where their folders changed."""
    cluster = loaded(inventory)
    ensure(cluster, [w.ref for w in wanted(cluster)], click.echo)
    found = build_module.contents(cluster) if contents else []
    return Document(words=(line for image in found for line in image.lines()))


@click.command(cls=Local)
@inventory_argument
def keygen(inventory: str) -> Document:
    """Make the gossip key, which all members share, where the inventory says; it never overwrites."""
    cluster = loaded(inventory)
    source = cluster.serf.key
    if source is not None and source.secret is not None:
        vault.change(cluster, vault.adding(source.secret, secrets.new_key(), replace=False), os.environ)
        return Document(
            words=[f"{cluster.secrets and cluster.secrets.file} holds a new gossip key as {source.secret}."]
        )
    if source is not None:
        raise FiefdomError(
            f"{inventory}: serf.key: comes from {source}, where Fiefdom cannot put it; "
            "make one with `openssl rand -base64 32`"
        )
    if cluster.serf.key_file is None:
        raise FiefdomError(f"{inventory}: serf.key_file: not set; name a file outside version control for the key")
    path = cluster.path_here(cluster.serf.key_file)
    secrets.generate(path)
    return Document(
        words=[f"{path} holds a new gossip key. Keep {path.name}* out of version control, and keep a copy."]
    )


@click.group(cls=Family)
def secret() -> None:
    """Secrets in the inventory's encrypted file, which only `secrets.recipients` can read."""


name_argument = click.argument("name")


@secret.command("set", cls=Local)
@inventory_argument
@name_argument
def secret_set(inventory: str, name: str) -> Document:
    """Put a secret in: from standard input, or asked for. It never stands on a command line."""
    cluster = loaded(inventory)
    vault.require_name(name)
    if is_terminal(sys.stdin):
        text = click.prompt(f"Value of {name}", hide_input=True, confirmation_prompt=True, err=True)
        secrets.require_one_line(text, f"the value of {name}")
    else:
        text = secrets.given(sys.stdin.buffer.read(), f"the value of {name}")
    vault.change(cluster, vault.adding(name, text), os.environ)
    return Document(words=[f"{name} is set. `fiefdom plan {inventory}` shows what it changes."])


@secret.command("list", cls=Local)
@inventory_argument
def secret_list(inventory: str) -> Document:
    """Show the names of the secrets, and nothing else of them."""
    return Document(words=map(printable, sorted(vault.read(loaded(inventory), os.environ))))


@secret.command("remove", cls=Local)
@inventory_argument
@name_argument
def secret_remove(inventory: str, name: str) -> Document:
    """Take a secret out."""
    vault.change(loaded(inventory), vault.removing(name), os.environ)
    words = f"{name} is removed. Whoever knew it still does: where it opens something, change it there as well."
    return Document(words=[words])


@secret.command("rekey", cls=Local)
@inventory_argument
def secret_rekey(inventory: str) -> Document:
    """Encrypt the file anew after a change of `secrets.recipients`."""
    cluster = loaded(inventory)
    vault.change(cluster, vault.as_it_is, os.environ)
    words = (
        f"Encrypted anew; recipients: {cluster.secrets and len(cluster.secrets.recipients)}. Whoever was taken out has "
        "the old values and older versions of the file: change the secrets themselves as well."
    )
    return Document(words=[words])


@click.command(cls=Command)
def schema() -> Document:
    """Print the JSON schema of inventories.

    Editors complete and check an inventory by it.
    """
    return Document(words=[reference.schema_text().removesuffix("\n")])


@click.command(cls=Command)
@click.argument("key", required=False)
def docs(key: str | None) -> Document:
    """Print what the model says of KEY and of all keys beneath it; without KEY, of the keys at the top."""
    return Document(words=key_docs.describe(key))
