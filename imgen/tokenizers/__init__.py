"""Tokenizers: images <-> latents.

A tokenizer is a Linen module with `spec(image_size) -> LatentSpec`, `encode(images[, rng])` and
`decode(latents)`; images are float32 [B, H, W, 3] in [-1, 1].
"""

from imgen.tokenizers.codes import StoredCodes
from imgen.tokenizers.vq import VQ, vq8, vq16

TOKENIZERS = {"vq": VQ, "vq16": vq16, "vq8": vq8, "codes": StoredCodes}
