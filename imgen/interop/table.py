"""Official checkpoint layouts <-> our parameter trees, from a table of rows.

A row pairs an official state-dict key with one of our parameter paths:

    Row("layers.{i}.attention.wo.weight", "blocks/{i}/attention/out/kernel", LINEAR)

`{name}` stands for a whole number and must mean the same on both sides. An index that is named
only in the official key is *stacked*: our leaf holds all layers along its leading axis.

    Row("layers.{i}.attention.wo.weight", "blocks/attention/out/kernel", LINEAR)   # [L, in, out]

Either side may be a tuple of names, where one tensor holds several of the other layout:

    Row("layers.{i}.attention.wqkv.weight", ("blocks/q/kernel", "blocks/k/kernel", "blocks/v/kernel"),
        Transform(split_qkv, join_qkv))

Our tree decides which keys a checkpoint must have, so that missing and unknown keys are both found.
"""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from imgen.errors import UserError
from imgen.params import paths

Names = str | tuple[str, ...]
Arrays = np.ndarray | tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True)
class Transform:
    """Both directions of a change of layout.

    Each function takes the source tensors of one row as arguments (one layer's, if the row stacks)
    and returns the target tensor, or a tuple of them where the target side of the row is a tuple.
    """

    to_ours: Callable[..., Arrays]
    to_official: Callable[..., Arrays]


SAME = Transform(lambda x: x, lambda x: x)
CONV = Transform(lambda w: w.transpose(2, 3, 1, 0), lambda w: w.transpose(3, 2, 0, 1))  # OIHW, HWIO
LINEAR = Transform(np.transpose, np.transpose)  # [out, in], [in, out]
FIRST = Transform(lambda x: x[0], lambda x: x[None])  # a leading axis of one
GATE_UP = Transform(  # two [F, D] <-> [D, 2, F]
    lambda gate, up: np.stack([gate.T, up.T], axis=1), lambda w: (w[:, 0].T, w[:, 1].T)
)
GATE_UP_BIAS = Transform(lambda gate, up: np.stack([gate, up]), lambda b: (b[0], b[1]))


@dataclasses.dataclass(frozen=True)
class Row:
    """Official key(s), our path(s), and the change of layout between them."""

    official: Names
    ours: Names
    transform: Transform = SAME


def layer(official: str, ours: str, kernel: Transform = LINEAR) -> list[Row]:
    """Weight and bias of a linear layer, or with kernel=CONV of a convolution."""
    return [
        Row(f"{official}.weight", f"{ours}/kernel", kernel),
        Row(f"{official}.bias", f"{ours}/bias"),
    ]


def cut_layer(official: str, ours: str, parts: int) -> list[Row]:
    """A linear layer that gives `parts` vectors, with bias: kernel [parts W, D] <-> [D, parts, W]."""
    kernel = Transform(
        lambda w: w.T.reshape(w.shape[1], parts, -1), lambda w: w.reshape(w.shape[0], -1).T
    )
    return [
        Row(f"{official}.weight", f"{ours}/kernel", kernel),
        Row(
            f"{official}.bias", f"{ours}/bias", Transform(lambda b: b.reshape(parts, -1), np.ravel)
        ),
    ]


def norm(official: str, ours: str) -> list[Row]:
    """Gain and bias of a norm."""
    return [Row(f"{official}.weight", f"{ours}/scale"), Row(f"{official}.bias", f"{ours}/bias")]


def from_official(
    rows: Sequence[Row],
    state: Mapping[str, np.ndarray],
    like: Mapping[str, Any],
    ignore: Sequence[str] = (),
) -> dict[str, Any]:
    """Official state dict -> our nested dict of numpy arrays.

    like: our tree of arrays or ShapeDtypeStructs (`jax.eval_shape` of init); the result has its
    paths, shapes and dtypes. ignore: regular expressions; official keys that match one wholly
    (buffers, say) are left out.

    Raises UserError, naming keys, when one is missing, unknown or of another shape.
    """
    want = paths.flatten(like)
    pairs = list(_pairs(rows, want))
    needed = [key for pair in pairs for layer in pair.layers for key in layer]
    missing = [key for key in needed if key not in state]
    if missing:
        raise UserError(f"the checkpoint lacks {_some(missing)}: is it of this model and size?")
    known = set(needed)
    unknown = [k for k in state if k not in known and not any(re.fullmatch(p, k) for p in ignore)]
    if unknown:
        raise UserError(
            f"the checkpoint has keys that this model has no place for: {_some(unknown)}"
        )

    out = {}
    for pair in pairs:
        try:
            layers = [
                _as_tuple(pair.row.transform.to_ours(*(np.asarray(state[k]) for k in keys)))
                for keys in pair.layers
            ]
            leaves = [np.stack(leaf) for leaf in zip(*layers, strict=True)]
        except ValueError as e:
            raise UserError(f"{_some(pair.layers[0])} cannot be converted: {e}") from e
        for path, leaf in zip(pair.paths, leaves, strict=True):
            # Unstacked rows have one "layer"; its leading axis of 1 goes.
            leaf = leaf.reshape(pair.stack + leaf.shape[1:])
            if leaf.shape != tuple(want[path].shape):
                raise UserError(
                    f"{_some(pair.layers[0])}: gives {path} the shape {leaf.shape}, but the model "
                    f"has {tuple(want[path].shape)}; is the checkpoint of this model's size?"
                )
            out[path] = leaf.astype(want[path].dtype)
    return paths.unflatten(out)


def to_official(rows: Sequence[Row], tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Our tree of arrays -> official state dict. Raises ValueError where no row covers a leaf."""
    leaves = {path: np.asarray(leaf) for path, leaf in paths.flatten(tree).items()}
    state = {}
    for pair in _pairs(rows, leaves):
        stacked = [
            leaves[p].reshape((-1,) + leaves[p].shape[len(pair.stack) :]) for p in pair.paths
        ]
        for keys, *layer in zip(pair.layers, *stacked, strict=True):
            tensors = _as_tuple(pair.row.transform.to_official(*layer))
            state.update(
                (key, np.asarray(tensor, order="C"))
                for key, tensor in zip(keys, tensors, strict=True)
            )
    return state


@dataclasses.dataclass(frozen=True)
class _Pair:
    """One row with its indices filled in: our leaves, and the official keys of each layer."""

    row: Row
    paths: tuple[str, ...]
    layers: list[tuple[str, ...]]
    stack: tuple[int, ...]  # leading axes of our leaves that count layers; () for one layer


def _pairs(rows: Sequence[Row], leaves: Mapping[str, Any]) -> Iterator[_Pair]:
    """Every row at every index that occurs in our leaves. Each leaf must be covered just once."""
    covered: set[str] = set()
    for row in rows:
        official, ours = _as_tuple(row.official), _as_tuple(row.ours)
        pattern = re.compile(_pattern(ours[0]))
        stacked = [n for n in _indices(" ".join(official)) if n not in _indices(ours[0])]
        for match in filter(None, map(pattern.fullmatch, leaves)):
            index = {name: int(value) for name, value in match.groupdict().items()}
            paths = tuple(path.format(**index) for path in ours)
            stack = tuple(leaves[paths[0]].shape[: len(stacked)])
            layers = [
                tuple(
                    key.format(**index, **dict(zip(stacked, at, strict=True))) for key in official
                )
                for at in itertools.product(*map(range, stack))
            ]
            twice = covered.intersection(paths)
            if twice:
                raise ValueError(f"two rows convert {_some(twice)}")
            covered.update(paths)
            yield _Pair(row, paths, layers, stack)
    left = set(leaves) - covered
    if left:
        raise ValueError(f"no row converts {_some(left)}")


def _indices(name: str) -> list[str]:
    return list(dict.fromkeys(re.findall(r"{(\w+)}", name)))


def _pattern(name: str) -> str:
    """A name with `{i}` marks -> a regular expression with a group of digits for each."""
    parts = re.split(r"{(\w+)}", name)
    out, seen = re.escape(parts[0]), set()
    for mark, text in zip(parts[1::2], parts[2::2], strict=True):
        out += f"(?P={mark})" if mark in seen else rf"(?P<{mark}>\d+)"
        out += re.escape(text)
        seen.add(mark)
    return out


def _as_tuple(x: Any) -> tuple:
    return x if isinstance(x, tuple) else (x,)


def _some(names: Sequence[str] | set[str], most: int = 4) -> str:
    names = sorted(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
