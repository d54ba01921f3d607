"""Changes to a config on the command line: `--config.key=value`."""

import ast
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from imgen.errors import UserError, did_you_mean

OVERRIDE = "--config."
# Groups whose keys depend on another choice, or that needn't be there: new ones may be set, and what they are
# for finds mistakes. So are all groups that have a `name`, and the tokenizer's parts.
OPEN = (
    "plan_options", "scheme_options", "head_options", "backbone_options", "entity_options",
    "optimizer", "disc_optimizer", "schedule", "guidance", "filters", "sampling", "parts",
)  # fmt: skip
# Groups whose other keys belong to their `name`: another one begins with its own defaults.
SWITCHED = ("tokenizer", "data.source", "generator.conditioning")
# ... but for these, in the group itself and in others that hold arguments of the same thing.
KEPT = ("name", "dtype")
BESIDE = {
    "data.source": {
        "data.train": ("split", "num_examples"),
        "data.eval": ("split", "num_examples"),
    }
}


def override(config: ConfigDict | FrozenConfigDict, overrides: Sequence[str]) -> FrozenConfigDict:
    """Applies "--config.a.b=value" (or "a.b=value") to a copy of `config`.

    Values are Python literals; text needs no quotes. They keep the type of what they replace (a whole number
    will do for a float); None may replace anything, and anything None. Another `name` of a group of SWITCHED,
    or of a part of the tokenizer, comes before its other keys and drops what the config says of the old one.
    Raises UserError.
    """
    config = ConfigDict(config.to_dict()).unlock()  # ConfigDict(config) would share the groups
    with config.ignore_type():
        for item in sorted(overrides, key=lambda item: not _switches(item.partition("=")[0])):
            _set(config, item)
    return FrozenConfigDict(config)


def _set(config: ConfigDict, item: str) -> None:
    key, equals, text = item.removeprefix(OVERRIDE).partition("=")
    if not equals:
        raise UserError(f"{item!r} has no value; write {OVERRIDE}{key}=VALUE")
    *groups, last = key.split(".")
    group = _group(config, groups)
    if group is None or not (last in group or _is_open(groups, group)):
        hint = did_you_mean(key, _keys(config))
        raise UserError(f"the config has no key {key!r}{hint and f'; {hint}'}")
    value = _parse(key, text, group.get(last))
    if _switches(key) and value != group.get(last):
        for other in set(group) - set(KEPT):
            del group[other]
        for where, kept in BESIDE.get(".".join(groups), {}).items():
            beside = _group(config, where.split("."))
            for other in set(beside or ()) - set(kept):
                del beside[other]
    group[last] = value


def _group(config: ConfigDict, names: Sequence[str]) -> ConfigDict | None:
    """The group of that name; one that may be set though absent, or a part that is off so far, is made."""
    group, path = config, []
    for name in names:
        path.append(name)
        if not isinstance(group, ConfigDict):
            return None
        made = name in OPEN or (path[0] == "tokenizer" and len(path) > 1)
        if made and group.get(name) is None:
            group[name] = ConfigDict()
        group = group.get(name)
    return group if isinstance(group, ConfigDict) else None


def _is_open(groups: Sequence[str], group: ConfigDict) -> bool:
    """Whether new keys may be set in a group."""
    if not groups:
        return False
    beside = [where for groups in BESIDE.values() for where in groups]
    named = "name" in group or ".".join(groups) in (*SWITCHED, *beside)
    return groups[-1] in OPEN or groups[0] == "tokenizer" or named


def _switches(key: str) -> bool:
    """Whether a key says what a group of SWITCHED, or a part of a tokenizer, is."""
    *groups, last = key.removeprefix(OVERRIDE).split(".")
    return last == "name" and (".".join(groups) in SWITCHED or groups[:1] == ["tokenizer"])


def _keys(config: ConfigDict, prefix: str = "") -> list[str]:
    """All keys, those of groups too, with dots."""
    keys = []
    for name, value in config.items():
        keys.append(prefix + name)
        if isinstance(value, ConfigDict):
            keys += _keys(value, f"{prefix}{name}.")
    return keys


def _parse(key: str, text: str, old: Any) -> Any:
    """The value that a text stands for, of the type of the old one."""
    if text == "None":
        return None
    if isinstance(old, ConfigDict):
        raise UserError(f"{key!r} is a group; set one of its keys: {', '.join(sorted(old))}")
    if old is None or isinstance(old, bool):
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        if old is not None:
            raise UserError(f"{key}={text}: true or false is needed")
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        value = text
    if isinstance(old, str):
        return value if isinstance(value, str) else text
    return value if old is None else _as_before(key, text, value, old)


def _as_before(key: str, text: str, value: Any, old: Any) -> Any:
    """`value` in the type of `old`, a number or a tuple."""
    if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(old, tuple | list) and isinstance(value, tuple | list):
        return tuple(value)
    if isinstance(old, tuple | list) and all(isinstance(x, str) for x in (*old, value)):
        return (value,)  # one path where there may be several
    if type(value) is not type(old):
        kind = {int: "a whole number", float: "a number", tuple: "a tuple such as (1, 2)"}
        wanted = kind.get(type(old), type(old).__name__)
        raise UserError(f"{key}={text}: {wanted} is needed (it is {old!r} now)")
    return value
