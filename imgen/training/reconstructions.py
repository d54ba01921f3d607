"""Pictures of what a tokenizer keeps: original | reconstruction pairs, and strips of more and more tokens.

Where decoding is random (FlexTok's), image i of a set is drawn with a key of its own, of the seed and i only:
neither its batch nor the devices change what is measured of it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from imgen.evaluation.images.image_set import Batches, ImageSet
from imgen.generators.arrays import sample_keys
from imgen.parallel.constrain import constrain
from imgen.parallel.hosts import local_rows
from imgen.parallel.prefetch import to_global
from imgen.report import pixels
from imgen.tokenizers.tokenizer import ImageSize, Tokenizer


def reconstructor(tokenizer: Tokenizer) -> Callable[..., jax.Array]:
    """Makes a function (params, uint8 images [N, H, W, 3][, rng, ids [N]]) -> uint8 reconstructions through
    the latents, sharded by rows.

    rng: a key; where `decode` draws, image ids[i] is drawn with a key of it and its number.
    Without one, as `decode` does by itself.
    """

    @jax.jit
    def reconstruct(
        params: Any, images: jax.Array, rng: jax.Array | None = None, ids: jax.Array | None = None
    ) -> jax.Array:
        variables, keys = {"params": params}, _keys(tokenizer, rng, ids)
        latents = tokenizer.apply(variables, pixels.to_float(images), method="encode")
        recon = tokenizer.apply(variables, latents, **keys, method="decode")
        return constrain(pixels.to_uint8(recon), "batch", None, None, None)

    return reconstruct


@jax.jit
def replicate(images: jax.Array) -> jax.Array:
    """Puts on every device what is looked at on the host."""
    return constrain(images, None, None, None, None)


def reconstructed(
    images: ImageSet,
    reconstruct: Callable[..., jax.Array],
    params: Any,
    sharding: NamedSharding,
    key: jax.Array,
) -> ImageSet:
    """Returns what `reconstructor` makes of a set of images, as a set in the same order, made when it is
    read.

    key: of what `decode` draws, if it does; image i's are of the key and i.
    """

    def read(batch_size: int) -> Batches:
        first = batch_size // jax.process_count() * jax.process_index()
        for number, (rows, mask) in enumerate(images.read(batch_size)):
            ids = number * batch_size + first + np.arange(len(rows))
            batch = to_global({"image": rows, "id": ids}, sharding)
            yield local_rows(reconstruct(params, batch["image"], key, batch["id"])), mask

    return ImageSet(images.name, images.num, images.size, read)


def _keys(
    tokenizer: Tokenizer, rng: jax.Array | None, ids: jax.Array | None
) -> dict[str, jax.Array]:
    """Returns what `decode` takes besides the latents, so that each image is drawn by its number."""
    return {} if rng is None or not tokenizer.draws else {"rng": sample_keys(rng, ids)}


def first_tokens(tokenizer: Tokenizer, image_size: ImageSize) -> list[int]:
    """Returns 1, 2, 4, ... and all tokens of a nested tokenizer, of which each may have several codes."""
    total = tokenizer.spec(image_size).grid[0]
    return [2**i for i in range(total.bit_length()) if 2**i < total] + [total]


def stripper(tokenizer: Tokenizer) -> Callable[..., jax.Array]:
    """Makes a function (params, uint8 images [N, H, W, 3][, rng, ids]) -> uint8 [N, 1 + S, H, W, 3]: each
    original and what its first 1, 2, 4, ... and all tokens decode to. rng, ids: as of `reconstructor`."""

    @jax.jit
    def strip(
        params: Any, images: jax.Array, rng: jax.Array | None = None, ids: jax.Array | None = None
    ) -> jax.Array:
        variables, n = {"params": params}, len(images)
        keys = _keys(tokenizer, rng, ids)
        latents = tokenizer.apply(variables, pixels.to_float(images), method="encode")

        def first(keep: jax.Array) -> jax.Array:  # every length from the same noise
            return tokenizer.apply(variables, latents, jnp.full(n, keep), **keys, method="decode")

        recon = jax.lax.map(first, jnp.array(first_tokens(tokenizer, images.shape[1:3])))
        both = jnp.concatenate([images[:, None], pixels.to_uint8(recon).swapaxes(0, 1)], axis=1)
        return constrain(both, None, None, None, None, None)

    return strip
