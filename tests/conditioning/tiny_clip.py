"""A CLIP that is quick to run, with random parameters."""

import jax
import numpy as np

from imgen.conditioning.clip import CLIP, ImageTower, TextTower, abstract_params


def tiny_clip(vocab=20, length=8, width=64, depth=2, heads=1, **text) -> CLIP:
    return CLIP(
        ImageTower(8, 4, width, depth, heads, 2 * width),
        TextTower(vocab, length, width, depth, heads, 2 * width, **text),
        width=24,
    )


def random_params(model: CLIP, seed: int = 0, scale: float = 0.2) -> dict:
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: scale * rng.standard_normal(leaf.shape).astype(np.float32),
        abstract_params(model),
    )
