"""The published tokenizers of one fixed size, for imgen.convert; each layout stands in its own file."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from imgen.interop import kl_vae, llamagen_vq, maskgit_vqgan, taming
from imgen.interop.system import System, by_table
from imgen.tokenizers import TOKENIZERS

LLAMAGEN = dict(ignored=llamagen_vq.IGNORED, inside="model")
TAMING = dict(ignored=taming.IGNORED, inside="state_dict")


def _shapes(name: str) -> Callable[[], dict[str, Any]]:
    """Of the parameters of TOKENIZERS[name] at its published size."""

    def like() -> dict[str, Any]:
        images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
        return jax.eval_shape(TOKENIZERS[name]().init, jax.random.key(0), images)["params"]

    return like


def _kl16() -> System:
    like = _shapes("kl16")
    return System(
        like, lambda state: kl_vae.convert(state, like()), kl_vae.convert_back, inside="model"
    )


SYSTEMS = {
    "llamagen_vq16": by_table(lambda: llamagen_vq.rows(5), _shapes("vq16"), **LLAMAGEN),
    "llamagen_vq8": by_table(lambda: llamagen_vq.rows(4), _shapes("vq8"), **LLAMAGEN),
    "taming_vqgan": by_table(taming.rows, _shapes("taming_vqgan"), **TAMING),
    "taming_vqgan_16384": by_table(taming.rows, _shapes("taming_vqgan_16384"), **TAMING),
    "maskgit_vqgan": by_table(maskgit_vqgan.rows, _shapes("maskgit_vqgan")),
    "kl16": _kl16(),
}
