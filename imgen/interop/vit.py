"""Rows of tables for the blocks of vision transformers as they are published, of `nn.attention.Attention` on
our side: kernel [D, N, 3, H], N heads of width H, each with its query, key and value."""

import numpy as np

from imgen.interop.table import LINEAR, Row, Transform, layer


def fused_attention(official: str, ours: str, heads: int, bias: bool = True) -> list[Row]:
    """timm's attention: `qkv` [3 D, D] and, with bias, [3 D]; `proj` with a bias."""

    def cut(w: np.ndarray) -> np.ndarray:  # [3 D, ...] -> [..., N, 3, H]
        w = w.reshape(3, heads, w.shape[0] // (3 * heads), *w.shape[1:])
        return _heads_first(w)

    def join(w: np.ndarray) -> np.ndarray:
        w = _heads_last(w)
        return w.reshape(-1, *w.shape[3:])

    transform = Transform(cut, join)
    rows = [Row(f"{official}.qkv.weight", f"{ours}/qkv/kernel", transform)]
    if bias:
        rows.append(Row(f"{official}.qkv.bias", f"{ours}/qkv/bias", transform))
    return rows + projection(f"{official}.proj", f"{ours}/out", heads)


def bert_attention(official: str, ours: str, heads: int) -> list[Row]:
    """Hugging Face's BERT: `self.{query,key,value}` and `output.dense`."""

    def stack(*w: np.ndarray) -> np.ndarray:  # three of [D, ...]
        w = [x.reshape(heads, x.shape[0] // heads, *x.shape[1:]) for x in w]
        return _heads_first(np.stack(w))

    def unstack(w: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(x.reshape(-1, *x.shape[2:]) for x in _heads_last(w))

    def names(kind: str) -> tuple[str, ...]:
        return tuple(f"{official}.self.{which}.{kind}" for which in ("query", "key", "value"))

    transform = Transform(stack, unstack)
    return [
        Row(names("weight"), f"{ours}/qkv/kernel", transform),
        Row(names("bias"), f"{ours}/qkv/bias", transform),
        *projection(f"{official}.output.dense", f"{ours}/out", heads),
    ]


def projection(official: str, ours: str, heads: int) -> list[Row]:
    """A linear layer on all heads: [D, N H] <-> [N, H, D], and its bias."""
    kernel = Transform(
        lambda w: w.T.reshape(heads, -1, w.shape[0]), lambda w: w.reshape(-1, w.shape[-1]).T
    )
    return layer(official, ours, kernel)


def mlp(official: str, ours: str, names: tuple[str, str] = ("fc1", "fc2")) -> list[Row]:
    """The two layers of a feed-forward with biases."""
    up, down = names
    return [
        *layer(f"{official}{up}", f"{ours}/up", LINEAR),
        *layer(f"{official}{down}", f"{ours}/down", LINEAR),
    ]


def _heads_first(w: np.ndarray) -> np.ndarray:
    """[3, N, H, ...] -> [..., N, 3, H]."""
    w = np.swapaxes(w, 0, 1)  # [N, 3, H, ...]
    return w if w.ndim == 3 else np.moveaxis(w, -1, 0)


def _heads_last(w: np.ndarray) -> np.ndarray:
    """[..., N, 3, H] -> [3, N, H, ...]."""
    w = w if w.ndim == 3 else np.moveaxis(w, 0, -1)
    return np.swapaxes(w, 0, 1)
