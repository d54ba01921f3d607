"""Tokenizers: images <-> latents. Their face is `tokenizer.Tokenizer`, which says what they may have.

A tokenizer is a Linen module over float32 images [B, H, W, 3] in [-1, 1], with

    spec(image_size) -> LatentSpec         raises UserError for sizes that it cannot take
    encode(images[, rng]) -> latents       deterministic without a key, sampled (where it can be) with one
    decode(latents[, keep, rng]) -> images keep, rng: where the tokenizer is `nested`, where it `draws`
    __call__(images[, rng, teacher]) -> dict   the training pass; without a key, nothing is random and no
                                           dropout acts (with one, a "dropout" stream is needed too);
                                           teacher: where one of its `projectors` is on, features [B, M, F]

The dict of the training pass holds

    latents   as `encode` gives them, without gradient
    losses    the tokenizer's own by name, weighted scalars (the quantizer's, flow matching, ...)
    stats     scalars by name, for the log
    recon     [B, H, W, 3], where the pass makes pictures: reconstruction, perceptual and adversarial
              losses apply to it, and then
    hidden    the input of `project(hidden) -> recon`, the last layer, whose parameters are at the path
              `last_layer`, e.g. ("decoder", "conv_out"): for the adaptive adversarial weight
    z         features before the quantizer, where `code_features(z, codes)` puts them among the codes:
              for k-means, restarts and EMA of a codebook (the parameter quantizer/codebook)
"""

from collections.abc import Mapping
from typing import Any

from imgen.config.construct import construct
from imgen.config.types import check_dtype
from imgen.errors import UserError
from imgen.tokenizers import bae, binary_1d, conv, dynamic, flextok, kl, mingtok, titok, vq
from imgen.tokenizers.layout import StoredCodes
from imgen.tokenizers.tokenizer import Tokenizer

TOKENIZERS = {
    "vq": vq.vq,
    "vq16": vq.vq,
    "vq8": vq.vq8,
    "maskgit_vqgan": vq.maskgit_vqgan,
    "taming_vqgan": vq.taming_vqgan,
    "taming_vqgan_16384": vq.taming_vqgan_16384,
    "taming_vqgan_f8": vq.taming_vqgan_f8,
    "bae": bae.bae,
    "kl": kl.kl,
    "kl16": kl.kl,
    "conv": conv.conv,
    "titok": titok.TiTok,
    **titok.BUILDERS,
    "flextok": flextok.FlexTok,
    **flextok.BUILDERS,
    "binary_1d": binary_1d.binary_1d,
    "vq_1d": binary_1d.vq_1d,
    "dynamic": dynamic.DynamicTokenizer,
    **mingtok.BUILDERS,
    "codes": StoredCodes,
}

PARTS = (*flextok.FlexTok.parts, *titok.TiTok.parts)


def build_tokenizer(settings: Mapping[str, Any], where: str = "tokenizer") -> Tokenizer:
    """Makes the tokenizer that a config's group `tokenizer` describes: `name`, a key of TOKENIZERS, and its
    fields; dtypes as text, PARTS as such groups themselves. Raises UserError."""
    arguments = dict(settings)
    name = arguments.pop("name", None)
    if name not in TOKENIZERS:
        raise UserError(f"{where}.name {name!r} is none of {', '.join(TOKENIZERS)}")
    arguments["dtype"] = check_dtype(f"{where}.dtype", arguments.get("dtype", "float32"))
    for part in PARTS:
        if isinstance(arguments.get(part), Mapping):
            arguments[part] = build_tokenizer(arguments[part], f"{where}.{part}")
    return construct(TOKENIZERS[name], arguments, where)


__all__ = ["PARTS", "TOKENIZERS", "Tokenizer", "build_tokenizer"]
