"""Config files, `configs/NAME.py[:ARG]`, and what a run keeps of one: RUN/config.json."""

import importlib.util
import inspect
import json
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from imgen.config.overrides import override
from imgen.config.upgrade import upgrade
from imgen.errors import UserError, did_you_mean


def load_config(path_with_arg: str, overrides: Sequence[str] = ()) -> FrozenConfigDict:
    """Reads `get_config(ARG)` of a file, with overrides (see `override`) applied.

    A config file that takes arguments lists them in `ARGS`; several may be joined by commas. What it holds
    that JSON has not (numpy's numbers, dtypes, paths) becomes what JSON has. Raises UserError for everything
    that can be mistyped.
    """
    name, _, arg = path_with_arg.partition(":")
    path = Path(name).expanduser()
    found = _run(path, _get_config(path, arg or None))
    if not isinstance(found, dict | ConfigDict | FrozenConfigDict):
        raise UserError(f"{path}: get_config returns {type(found).__name__}, not a ConfigDict")
    return override(ConfigDict(_storable(plain(found), "config")), overrides)


def choose(arg: str | None, sizes: Sequence[str], where: str) -> tuple[str, set[str]]:
    """Splits a recipe's ARG "size,other,..." into the one of `sizes` that it names, the first by default, and
    the rest. Raises UserError if it names several."""
    parts = (arg or sizes[0]).split(",")
    chosen = [part for part in parts if part in sizes] or [sizes[0]]
    if len(chosen) > 1:
        raise UserError(f"{where}:ARG names one of {', '.join(sizes)}")
    return chosen[0], set(parts) - {chosen[0]}


def plain(value: Any) -> Any:
    """Turns nested ConfigDicts into dicts."""
    if isinstance(value, dict | ConfigDict | FrozenConfigDict):
        return {k: plain(v) for k, v in value.items()}
    return value


def to_json(config: FrozenConfigDict) -> str:
    return json.dumps(plain(config), indent=2) + "\n"


def from_json(text: str) -> FrozenConfigDict:
    """Reads what `to_json` wrote. Lists were tuples: a frozen config has no lists."""

    def tuples(value):
        if isinstance(value, dict):
            return {k: tuples(v) for k, v in value.items()}
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    return FrozenConfigDict(tuples(upgrade(json.loads(text))))


def read_config(workdir: str | Path, where: str = "--workdir") -> FrozenConfigDict:
    """Reads RUN/config.json. where: what names the run, for the error."""
    path = Path(workdir) / "config.json"
    try:
        return from_json(path.read_text())
    except OSError:
        raise UserError(f"{workdir} holds no run (no config.json); mend {where}") from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is not readable JSON ({error}); give --config") from None


def write_config(config: FrozenConfigDict, workdir: str | Path) -> None:
    """Writes RUN/config.json, which appears only when it is whole."""
    unfinished = Path(workdir) / "config.tmp"
    unfinished.write_text(to_json(config))
    unfinished.replace(Path(workdir) / "config.json")


def _get_config(path: Path, arg: str | None) -> Callable[[], Any]:
    """What makes the config: the file's get_config, with its argument."""
    if not path.is_file():
        known = [p.stem for p in path.parent.glob("[a-z]*.py")] if path.parent.is_dir() else []
        hint = did_you_mean(path.stem, known)
        raise UserError(f"no config file {path}{hint and f'; {hint}'}")
    module = _module(path)
    get_config = vars(module).get("get_config")
    if get_config is None:
        raise UserError(f"{path} has no get_config(arg); a config file defines that function")
    if arg is None:
        return get_config
    known = vars(module).get("ARGS", ())
    for part in arg.split(","):
        if part not in known:
            listed = f"it takes {', '.join(known)}" if known else "it takes none"
            raise UserError(f"{path} has no argument {part!r}; {listed}")
    if not inspect.signature(get_config).parameters:
        raise UserError(f"{path}: get_config() takes no argument, though ARGS lists some")
    return lambda: get_config(arg)


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"imgen_config_{path.stem}", path)
    if spec is None:
        raise UserError(f"{path} is not a Python file (.py); a config file defines get_config(arg)")
    module = importlib.util.module_from_spec(spec)
    _run(path, lambda: spec.loader.exec_module(module))
    return module


def _run(path: Path, code: Callable[[], Any]) -> Any:
    """Calls what a user wrote in a file. Raises UserError, with the line, for whatever it raises."""
    try:
        return code()
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(f"{error.filename or path} line {error.lineno}: {error.msg}") from error
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename) == path]
        where = f"{path} line {lines[-1]}" if lines else path
        raise UserError(f"{where}: {type(error).__name__}: {error}") from error


def _storable(value: Any, where: str) -> Any:
    """`value` with what JSON has in place of numpy's numbers and arrays, dtypes and paths."""
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise UserError(f"{where}: the key {key!r} is not text")
        return {key: _storable(entry, f"{where}.{key}") for key, entry in value.items()}
    if isinstance(value, tuple | list | set | frozenset):
        return tuple(_storable(entry, where) for entry in value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.ndarray | np.generic):
        return _storable(value.tolist(), where)
    try:
        return np.dtype(value).name  # jnp.bfloat16, np.float32, a dtype
    except TypeError:
        kind = type(value).__name__
        raise UserError(
            f"{where} is a {kind}, which a config cannot keep: use numbers, text, tuples and groups"
        ) from None
