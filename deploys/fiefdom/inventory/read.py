"""Inventories in, one validated `Cluster` out: from YAML, from Python, or from what pyinfra has loaded.

What a person wrote is layered: the model's defaults, `group_data/all.py`, the group data of a host's groups in
their order, the inventory, the host's own keys. Mappings merge at every depth, everything else replaces.
`group_data/` is looked for where pyinfra looks: in the working directory and beside the inventory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fiefdom.errors import FiefdomError
from fiefdom.inventory import certificates, files
from fiefdom.inventory.complaint import keys_beneath, mistakes_of, unknown_key
from fiefdom.inventory.python_lines import lines_of
from fiefdom.inventory.source import Lines, read_group_data, read_python, read_text, read_yaml, written
from fiefdom.inventory.written import Mistake, Mistakes, Origin, Written
from fiefdom.model import Cluster, Host
from fiefdom.wording import KeyPath, from_here, printable

DATA_KEY = "fiefdom"
"""Host data under which the two-line pyinfra inventory carries the YAML inventory beside it."""

HOST_KEYS = frozenset(Host.model_fields)
CLUSTER_KEYS = frozenset(Cluster.model_fields) - {"hosts"}
# `ssh` and `services` are keys of both: of the cluster in group_data/all.py, of a host elsewhere.
_CLUSTER_ONLY = CLUSTER_KEYS - HOST_KEYS
# pyinfra's own host data says the same as these keys of ours.
_SSH_DATA = {"ssh_user": "user", "ssh_port": "port", "ssh_key": "key"}


@dataclass(frozen=True)
class Document:
    """A YAML inventory on its way through pyinfra's host data, as it was written."""

    file: str
    folder: str
    content: Written = field(repr=False)

    def to_json(self) -> str:
        """What `pyinfra INVENTORY debug-inventory` shows: the file, not the environment that stands in it."""
        return self.file


@dataclass(frozen=True)
class _Layers:
    """What pyinfra knows of an inventory."""

    hosts: Mapping[str, tuple[list[str], Mapping[str, Any]]]
    """Groups, but for `all`, and own data by host."""
    groups: Mapping[str, Written]
    everywhere: Written
    lines: Mapping[str, Lines] = field(default_factory=dict)
    """Of each host's own data, where they are known."""


def load(path: str | Path) -> Cluster:
    """The cluster of an inventory file: `.yaml`, `.yml`, or the `.py` that pyinfra takes.

    Raises:
        FiefdomError: anything about it is wrong; names the file, the line where there is one, the key and the mend.
    """
    return load_written(path)[0]


def load_written(path: str | Path) -> tuple[Cluster, Written]:
    """As `load`, with what was written and where."""
    suffix = Path(path).suffix
    if suffix in (".yaml", ".yml"):
        return _of_document(document_of(path), group_data(path))
    if suffix == ".py":
        return _of_layers(_python_layers(path), str(path))
    if Path(path).exists() and not Path(path).is_dir():
        raise FiefdomError(printable(f"{path}: the name of an inventory ends in .yaml, .yml or .py; rename it"))
    read_yaml(path)
    raise AssertionError("read_yaml names what is wrong with a folder or a missing file")


def cluster_of(
    hosts: Mapping[str, tuple[list[str], Mapping[str, Any]]],
    groups: Mapping[str, Mapping[str, Any]],
    everywhere: Mapping[str, Any],
) -> Cluster:
    """The cluster of an inventory that pyinfra has loaded: groups and data of each host, data of each group, of all.

    Raises:
        FiefdomError: the data is not a valid cluster.
    """
    layers = _Layers(
        hosts=hosts,
        groups={name: written(data, f"group data of {name}") for name, data in groups.items()},
        everywhere=written(everywhere, "group data of all"),
    )
    return _of_layers(layers, "inventory")[0]


def document_of(path: str | Path) -> Document:
    content = read_yaml(path)
    if "base_dir" in content.value:
        known = sorted((CLUSTER_KEYS - {"base_dir"}) | {"hosts"})
        own = Mistake(content.origin(("base_dir",)), ("base_dir",), unknown_key("base_dir", known))
        value = {key: inner for key, inner in content.value.items() if key != "base_dir"}
        content = Written(value, content.origins, (*content.mistakes, own))
    return Document(str(path), str(Path(path).resolve().parent), content)


def group_data(path: str | Path) -> dict[str, Written]:
    """Group data of an inventory: from beside it, on top of that beside its folder, whoever reads it from wherever."""
    beside = Path(path).resolve().parent
    return read_group_data([beside.parent / "group_data", beside / "group_data"])


def unread_group_data(path: str | Path) -> Path | None:
    """The working directory's group data, which pyinfra would mix into any inventory, if it is not this one's."""
    here = (Path.cwd() / "group_data").resolve()
    beside = Path(path).resolve().parent
    own = {(folder / "group_data").resolve() for folder in (beside, beside.parent)}
    return from_here(here) if here.is_dir() and here not in own else None


def of_document(document: Document, groups: Mapping[str, Written]) -> Cluster:
    return _of_document(document, groups)[0]


def _of_document(document: Document, groups: Mapping[str, Written]) -> tuple[Cluster, Written]:
    hosts = document.content.value.get("hosts")
    # pyinfra puts every host of a file into a group with the file's name, after all others.
    stem = Path(document.file).stem
    members: dict[str, list[str]] = {}
    for name, own in hosts.items() if isinstance(hosts, dict) else ():
        if isinstance(own, dict):
            listed = own.get("groups")
            members[name] = [*(g for g in listed if isinstance(g, str)), stem] if isinstance(listed, list) else [stem]
    return validated(_layered(document.content, members, groups), document.folder)


def _of_layers(layers: _Layers, file: str) -> tuple[Cluster, Written]:
    for _, data in layers.hosts.values():
        if isinstance(document := data.get(DATA_KEY), Document):
            # Not what pyinfra has read: it mixes in what lies in the working directory.
            return _of_document(document, group_data(Path(document.folder) / Path(document.file).name))
    content = Written({"hosts": {}}, {(): Origin(file)})
    owner: dict[str, str] = {}
    for name, (groups, data) in layers.hosts.items():
        own = _with_ssh(
            written(data, file, layers.lines.get(name)), (HOST_KEYS | _CLUSTER_ONLY) - {"groups"}, "hosts", name
        )
        for key in _CLUSTER_ONLY & set(own.value):
            if own.value[key] != content.value.get(key, own.value[key]):
                says = (
                    f"{key} is the whole cluster's, and {owner[key]} says another; write it once, in the data of `all`"
                )
                clash = Mistake(own.origin((key,)), ("hosts", name, key), says)
                content = Written(content.value, content.origins, (*content.mistakes, clash))
            owner[key] = name
        # Groups that are no Python variables are pyinfra's: the file's name is one.
        mine = Written({"groups": [g for g in groups if g.isidentifier()]}, {("groups",): own.origin(())})
        content = own.only(*HOST_KEYS).over(mine).at("hosts", name).over(own.only(*_CLUSTER_ONLY)).over(content)
    members = {name: groups for name, (groups, _) in layers.hosts.items()}
    return validated(_layered(content, members, {**layers.groups, "all": layers.everywhere}), None)


def _layered(content: Written, members: Mapping[str, list[str]], groups: Mapping[str, Written]) -> Written:
    """``content`` on top of the group data of its hosts, which are ``members`` of groups."""
    nothing = Written({}, {})
    everywhere = _with_ssh(groups.get("all", nothing), (CLUSTER_KEYS | HOST_KEYS) - {"groups", "address"})
    result = everywhere.only(*CLUSTER_KEYS)
    layer_of = {
        group: _with_ssh(groups[group], HOST_KEYS - {"groups"}).only(*HOST_KEYS)
        for group in dict.fromkeys(g for names in members.values() for g in names)
        if group in groups
    }
    for name, names in members.items():
        layer = everywhere.only(*(HOST_KEYS - CLUSTER_KEYS))
        for group in dict.fromkeys(names):
            layer = layer_of.get(group, nothing).over(layer)
        result = layer.at("hosts", name).over(result)
    return content.over(result)


def beneath(cluster: bool) -> list[str]:
    """What stands in the mappings of a host's data, and of that of the ``cluster`` where it may be there as well."""
    return keys_beneath(("hosts", "HOST")) + (keys_beneath(()) if cluster else [])


def _with_ssh(layer: Written, known: frozenset[str], *where: str) -> Written:
    """``layer`` with pyinfra's names for SSH settings under ours, and what is wrong with its keys."""
    value, origins = dict(layer.value), dict(layer.origins)
    mistakes = list(layer.mistakes)
    cluster_wide = "network" in known and not where
    ssh: dict[str, Any] = {}
    ssh_origins: dict[KeyPath, Origin] = {}
    for name in layer.value:
        says = None
        if name in known:
            continue
        if name in _SSH_DATA or (name == "ssh_known_hosts_file" and cluster_wide):
            ours = _SSH_DATA.get(name, "known_hosts")
            ssh[ours], ssh_origins["ssh", ours] = value[name], layer.origin((name,))
        elif name == "ssh_hostname" and where:
            if "address" not in value:
                value["address"], origins["address",] = value[name], layer.origin((name,))
            elif value["address"] != value[name]:
                ssh["address"], ssh_origins["ssh", "address"] = value[name], layer.origin((name,))
        elif name == "ssh_known_hosts_file":
            says = "one file serves the whole cluster; move it to the data of `all`"
        elif name in _CLUSTER_ONLY:
            says = "belongs to the whole cluster; move it to group_data/all.py"
        elif not (isinstance(name, str) and name.startswith(("_", "x_", "x-", "ssh_"))):
            says = unknown_key(name, sorted(known), beneath("network" in known)) + "; names of your own begin with x_"
        if says is not None:
            mistakes.append(Mistake(layer.origin((name,)), (*where, str(name)), says))
    found = Written(value, origins, tuple(mistakes))
    return found.over(Written({"ssh": ssh}, {("ssh",): layer.origin(()), **ssh_origins})) if ssh else found


def validated(content: Written, folder: str | None) -> tuple[Cluster, Written]:
    base = folder if folder is not None else content.value.get("base_dir", str(Path.cwd()))
    mistakes = list(content.mistakes)
    try:
        cluster = Cluster.model_validate({**content.value, "base_dir": _absolute(base)})
    except ValidationError as error:
        raise Mistakes(mistakes + mistakes_of(error, content)) from error
    if folder is None and "base_dir" not in content.value and not any("base_dir" in m.says for m in mistakes):
        # pyinfra does not say which file it has read: a wrong guess here would mean the wrong key.
        relative = [key for key, path in _paths(cluster) if not Path(path).expanduser().is_absolute()]
        says = "a relative path; add `base_dir = str(Path(__file__).parent)` to the data of `all`"
        mistakes += [Mistake(content.origin(key), key, says) for key in relative]
    if mistakes:
        raise Mistakes(mistakes)
    return cluster, content


def _absolute(path: object) -> object:
    try:
        return str(Path(path).expanduser().resolve()) if isinstance(path, str) else path
    except (OSError, RuntimeError, ValueError):  # the model says what is wrong with it
        return path


def _paths(cluster: Cluster) -> Iterator[tuple[KeyPath, str]]:
    named: dict[KeyPath, str | None] = {
        ("ssh", "key"): cluster.ssh.key,
        ("ssh", "known_hosts"): cluster.ssh.known_hosts,
        ("serf", "key_file"): cluster.serf.key_file,
        ("secrets", "file"): cluster.secrets.file if cluster.secrets is not None else None,
        **{
            ("development", "services", name, "build"): middleware.build
            for name, middleware in cluster.development.services.items()
        },
        **{("services", name, "build"): service.build for name, service in cluster.services.items()},
        **{("hosts", name, "ssh", "key"): host.ssh.key for name, host in cluster.hosts.items()},
        **{key: path for key, path, _ in files.named(cluster)},
        **dict(certificates.named(cluster)),
        **dict(files.pages(cluster)),
        **dict(cluster.hooks.programs()),
    }
    yield from ((key, path) for key, path in named.items() if path is not None)


def _python_layers(path: str | Path) -> _Layers:
    """What pyinfra makes of a Python inventory (`pyinfra_cli.inventory.make_inventory_from_files` of 3.10)."""
    variables = read_python(path)
    lines = lines_of(read_text(path))
    places = {name: _places(name, value, lines) for name, value in variables.items() if _is_group(name, value)}
    groups = {name: _entries(variables[name], f"{path}: {name}") for name in places}
    named = [name for entries, _ in groups.values() for name, _ in entries]
    everyone, everywhere = groups.pop("all", ([(name, {}) for name in dict.fromkeys(named)], {}))
    own_lines: dict[str, dict[KeyPath, int]] = {}
    for group in sorted(places, key=lambda name: name == "all"):
        for (name, _), at in zip(groups[group][0] if group in groups else everyone, places[group][0], strict=False):
            own_lines.setdefault(name, {}).update(at)
    groups.setdefault(Path(path).name.rsplit(".", 1)[0], (everyone, {}))
    own: dict[str, dict[str, Any]] = {name: {} for name, _ in everyone}
    members: dict[str, list[str]] = {name: [] for name in own}
    for group, (entries, _) in groups.items():
        for name, data in entries:
            if name in own:  # pyinfra leaves out who is not in a list `all`
                own[name].update(data)
                members[name].append(group)
    for name, data in everyone:
        own[name].update(data)
    layers = {
        name: written(data, str(path), places[name][1] if name in places else None)
        for name, data in [("all", everywhere), *((g, d) for g, (_, d) in groups.items())]
    }
    for name, new in group_data(path).items():
        # As in pyinfra, a name in group_data/ replaces the one in the data that stands with the group's list.
        old = layers.get(name, Written({}, {}))
        layers[name] = Written({**old.value, **new.value}, {**old.origins, **new.origins})
    everywhere_written = layers.pop("all")
    return _Layers({name: (members[name], own[name]) for name in own}, layers, everywhere_written, own_lines)


def _places(name: str, value: Any, lines: Lines) -> tuple[list[Lines], Lines]:
    """Lines of each host's own data in a group, and of the group's data."""
    above: KeyPath = (name, 0) if isinstance(value, tuple) else (name,)
    count = len(value[0] if isinstance(value, tuple) and value and isinstance(value[0], list) else value)
    hosts: list[Lines] = [{**_beneath(lines, (*above, i, 1)), **_at(lines, (*above, i))} for i in range(count)]
    return hosts, _beneath(lines, (name, 1)) if isinstance(value, tuple) else {}


def _at(lines: Lines, key: KeyPath) -> Lines:
    return {(): lines[key]} if key in lines else {}


def _beneath(lines: Lines, key: KeyPath) -> Lines:
    return {at[len(key) :]: line for at, line in lines.items() if at[: len(key)] == key and len(at) > len(key)}


def _is_group(name: str, value: object) -> bool:
    if name.startswith("_"):
        return False
    return isinstance(value, tuple) or (isinstance(value, list) and all(isinstance(e, str | tuple) for e in value))


_Entries = list[tuple[str, Mapping[str, Any]]]


def _entries(value: Any, where: str) -> tuple[_Entries, dict[str, Any]]:
    """Hosts with their own data, and the data of a group that is a list or a tuple of list and data."""
    hosts, data = value if isinstance(value, tuple) and len(value) == 2 else (value, {})
    entries = [(e, {}) if isinstance(e, str) else e for e in hosts] if isinstance(hosts, list) else None
    if entries is None or not isinstance(data, dict) or not all(_is_entry(e) for e in entries):
        raise FiefdomError(
            printable(
                f"{where}: pyinfra takes this for a group; write a list of names or (name, data), or (list, data), "
                "or begin its name with _"
            )
        )
    return entries, dict(data)


def _is_entry(entry: object) -> bool:
    return isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str) and isinstance(entry[1], Mapping)
