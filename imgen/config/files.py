"""Config files: `configs/NAME.py[:ARG]` with `--config.key=value` changes, and RUN/config.json."""

import ast
import importlib.util
import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from imgen.errors import UserError, did_you_mean

OVERRIDE = "--config."
# A run is one model on one stream of data: on resume these may not change ...
FIXED = ("tokenizer", "generator", "data", "seed")
# ... but where and how fast the data is read may, and what only trades memory for time.
FREE = ("path", "data_dir", "num_workers", "max_bad_share", "num_examples", "remat")
# Groups whose keys depend on another choice: new ones may be set, what they are for finds mistakes.
OPEN = ("plan_options", "head_options", "entity_options")
NAMED = "tokenizer"  # open too, with all its parts, and another `name` in it begins with its own defaults


def load_config(path_with_arg: str, overrides: Sequence[str] = ()) -> FrozenConfigDict:
    """`get_config(ARG)` of the file, with overrides "--config.a.b=value" (or "a.b=value") applied.

    A config file that takes arguments lists them in `ARGS`; several may be joined by commas.
    Values are Python literals; text needs no quotes. They keep the type of what they replace
    (a whole number will do for a float); None may replace anything, and anything None.

    Raises UserError for everything that can be mistyped.
    """
    name, _, arg = path_with_arg.partition(":")
    config = ConfigDict(_get_config(Path(name), arg or None))
    return override(config, overrides)


def choose(arg: str | None, sizes: Sequence[str], where: str) -> tuple[str, set[str]]:
    """A recipe's ARG "size,other,..." -> the one of `sizes` that it names, the first by default, and the
    rest. Raises UserError if it names several."""
    parts = (arg or sizes[0]).split(",")
    chosen = [part for part in parts if part in sizes] or [sizes[0]]
    if len(chosen) > 1:
        raise UserError(f"{where}:ARG names one of {', '.join(sizes)}")
    return chosen[0], set(parts) - {chosen[0]}


def override(config: ConfigDict | FrozenConfigDict, overrides: Sequence[str]) -> FrozenConfigDict:
    """A copy of `config` with "a.b=value" applied.

    Another `name` of a tokenizer or of one of its parts comes before its other keys and drops what the config
    says of the old one, but for the dtype.
    """
    config = ConfigDict(config.to_dict()).unlock()  # ConfigDict(config) would share the groups
    for item in sorted(overrides, key=lambda item: not _names(item.partition("=")[0])):
        key, equals, text = item.removeprefix(OVERRIDE).partition("=")
        if not equals:
            raise UserError(f"{item!r} has no value; write {OVERRIDE}{key}=VALUE")
        *groups, last = key.split(".")
        group = config
        for name in groups:
            if groups[0] == NAMED and isinstance(group, ConfigDict) and group.get(name) is None:
                with config.ignore_type():
                    group[name] = ConfigDict()  # a part that is off so far
            group = group.get(name) if isinstance(group, ConfigDict) else None
        is_open = bool(groups) and (groups[-1] in OPEN or groups[0] == NAMED)
        if not isinstance(group, ConfigDict) or not (last in group or is_open):
            raise UserError(f"the config has no key {key!r}{_did_you_mean(key, _keys(config))}")
        value = _parse(key, text, group.get(last))
        if _names(key) and value != group.get(last):
            for other in set(group) - {"name", "dtype"}:
                del group[other]
        with config.ignore_type():
            group[last] = value
    return FrozenConfigDict(config)


def _names(key: str) -> bool:
    """Whether a key says which tokenizer, or which part of one, a group is of."""
    parts = key.removeprefix(OVERRIDE).split(".")
    return parts[0] == NAMED and parts[-1] == "name"


def plain(value):
    """Nested ConfigDicts -> dicts."""
    if isinstance(value, ConfigDict | FrozenConfigDict):
        return {k: plain(v) for k, v in value.items()}
    return value


def to_json(config: FrozenConfigDict) -> str:
    return json.dumps(plain(config), indent=2) + "\n"


def from_json(text: str) -> FrozenConfigDict:
    """The config that `to_json` wrote. Lists were tuples: a frozen config has no lists."""

    def tuples(value):
        if isinstance(value, dict):
            return {k: tuples(v) for k, v in value.items()}
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    return FrozenConfigDict(tuples(json.loads(text)))


def read_config(workdir: str | Path, where: str = "--workdir") -> FrozenConfigDict:
    """RUN/config.json. where: what names the run, for the error."""
    path = Path(workdir) / "config.json"
    try:
        return from_json(path.read_text())
    except OSError:
        raise UserError(f"{workdir} holds no run (no config.json); mend {where}") from None
    except ValueError as error:
        raise UserError(f"{path} is not readable JSON ({error}); give --config") from None


def write_config(config: FrozenConfigDict, workdir: str | Path) -> None:
    """RUN/config.json, which appears only when it is whole."""
    unfinished = Path(workdir) / "config.tmp"
    unfinished.write_text(to_json(config))
    unfinished.replace(Path(workdir) / "config.json")


def check_resume(old: FrozenConfigDict, new: FrozenConfigDict, workdir: str | Path) -> list[str]:
    """What a resumed run changes, in lines. Raises UserError for another model or data."""
    before, after = _flat(old), _flat(new)
    changes = []
    for key in sorted(before.keys() | after.keys()):
        was, now = (side.get(key, "absent") for side in (before, after))
        if was == now:
            continue
        parts = key.split(".")
        if (parts[0] in FIXED or parts[-1] == "batch_size") and parts[-1] not in FREE:
            raise UserError(
                f"{workdir} was trained with {key}={was!r}, the config now says {now!r}; "
                "use another --workdir, or the old value"
            )
        changes.append(f"{key}: {was!r} -> {now!r}")
    return changes


def _get_config(path: Path, arg: str | None):
    if not path.is_file():
        raise UserError(f"no config file {path}{_did_you_mean(path.stem, _config_names(path))}")
    spec = importlib.util.spec_from_file_location(f"imgen_config_{path.stem}", path)
    if spec is None:
        raise UserError(f"{path} is not a Python file (.py); a config file defines get_config(arg)")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UserError(f"{path} line {error.lineno}: {error.msg}") from error
    get_config = getattr(module, "get_config", None)
    if get_config is None:
        raise UserError(f"{path} has no get_config(arg); a config file defines that function")
    if arg is None:
        return get_config()
    known = getattr(module, "ARGS", ())
    for part in arg.split(","):
        if part not in known:
            listed = f"it takes {', '.join(known)}" if known else "it takes none"
            raise UserError(f"{path} has no argument {part!r}; {listed}")
    if not inspect.signature(get_config).parameters:
        raise UserError(f"{path}: get_config() takes no argument, though ARGS lists some")
    return get_config(arg)


def _config_names(path: Path) -> list[str]:
    return [p.stem for p in path.parent.glob("[a-z]*.py")] if path.parent.is_dir() else []


def _did_you_mean(word: str, known: Sequence[str]) -> str:
    hint = did_you_mean(word, known)
    return f"; {hint}" if hint else ""


def _keys(config: ConfigDict, prefix: str = "") -> list[str]:
    """All keys, those of groups too, with dots."""
    keys = []
    for name, value in config.items():
        keys.append(prefix + name)
        if isinstance(value, ConfigDict):
            keys += _keys(value, f"{prefix}{name}.")
    return keys


def _parse(key: str, text: str, old: Any) -> Any:
    if isinstance(old, ConfigDict):
        raise UserError(f"{key!r} is a group; set one of its keys: {', '.join(sorted(old))}")
    if text == "None":
        return None
    if old is None and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if isinstance(old, bool):
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise UserError(f"{key}={text}: true or false is needed")
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if isinstance(old, str):
        return value if isinstance(value, str) else text
    if old is None:
        return value
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


def _flat(config, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict | FrozenConfigDict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
