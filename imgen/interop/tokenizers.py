"""The published tokenizers for imgen.convert, at their released size or that of a config; each layout stands
in its own file."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from imgen.errors import UserError
from imgen.interop import elm_bae, instella, kl_vae, llamagen_vq, maskgit_vqgan, taming, titok
from imgen.interop.system import System, by_table
from imgen.interop.table import Row
from imgen.latents import height_width
from imgen.tokenizers import TOKENIZERS, Tokenizer

Layout = Callable[[Tokenizer], System]


def _table(rows: Callable[[Tokenizer], list[Row]], **published: Any) -> Layout:
    """published: as in `by_table`."""
    return lambda module: by_table(lambda: rows(module), lambda: _shapes(module), **published)


def _shapes(module: Tokenizer) -> dict[str, Any]:
    images = jax.ShapeDtypeStruct((1, *height_width(module.image_size or 64), 3), jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), images)["params"]


def _kl(module: Tokenizer) -> System:
    def convert(state):
        return kl_vae.convert(state, _shapes(module))

    return System(lambda: _shapes(module), convert, kl_vae.convert_back, inside="model")


LLAMAGEN = _table(
    lambda module: llamagen_vq.rows(len(module.encoder.ch_mult)),
    ignored=llamagen_vq.IGNORED,
    inside="model",
)
TAMING = _table(lambda module: taming.rows(), ignored=taming.IGNORED, inside="state_dict")
TITOK = _table(lambda module: titok.rows(module.head))
# system: the released size in TOKENIZERS, and the layout of any size.
LAYOUTS: dict[str, tuple[str, Layout]] = {
    "llamagen_vq16": ("vq16", LLAMAGEN),
    "llamagen_vq8": ("vq8", LLAMAGEN),
    "taming_vqgan": ("taming_vqgan", TAMING),
    "taming_vqgan_16384": ("taming_vqgan_16384", TAMING),
    "maskgit_vqgan": ("maskgit_vqgan", _table(lambda module: maskgit_vqgan.rows())),
    "kl16": ("kl16", _kl),
    "elm_bae": ("bae", _table(elm_bae.rows, ignored=elm_bae.IGNORED)),
    "instella_bae": ("binary_1d", _table(instella.tokenizer_rows)),
    "titok_l32": ("titok_l32", TITOK),
    "titok_b64": ("titok_b64", TITOK),
    "titok_s128": ("titok_s128", TITOK),
    "titok_bl64": ("titok_bl64", TITOK),
    "titok_bl128": ("titok_bl128", TITOK),
    "titok_sl256": ("titok_sl256", TITOK),
}


def of_size(name: str, module: Tokenizer) -> System:
    """The system LAYOUTS[name] for a module of another size. Raises UserError for another kind of module."""
    preset, layout = LAYOUTS[name]
    if type(module) is not type(TOKENIZERS[preset]()):
        raise UserError(f"config.tokenizer is a {type(module).__name__}, which {name} is not")
    system = layout(module)

    def to_ours(state):
        try:
            return system.to_ours(state)
        except ValueError as error:  # no row for one of its parameters
            raise UserError(f"config.tokenizer is not of the layout {name}: {error}") from error

    return dataclasses.replace(system, to_ours=to_ours)


SYSTEMS = {name: layout(TOKENIZERS[preset]()) for name, (preset, layout) in LAYOUTS.items()}
