"""Pictures of what a tokenizer keeps: original | reconstruction pairs, and strips of more and more tokens."""

import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from imgen import images as pixels
from imgen.evaluation.features import local_rows
from imgen.evaluation.image_sets import Batches, ImageSet
from imgen.nn.constrain import constrain
from imgen.training.prefetch import to_global


def reconstructor(tokenizer: nn.Module) -> Callable[..., jax.Array]:
    """(params, uint8 images [N, H, W, 3][, rng]) -> uint8 reconstructions through the latents, sharded by
    rows. rng: draws what `decode` draws, where it does (`draws`)."""

    @jax.jit
    def reconstruct(params: Any, images: jax.Array, rng: jax.Array | None = None) -> jax.Array:
        variables, key = {"params": params}, {} if rng is None else {"rng": rng}
        latents = tokenizer.apply(variables, pixels.to_float(images), method="encode")
        recon = tokenizer.apply(variables, latents, **key, method="decode")
        return constrain(pixels.to_uint8(recon), "batch", None, None, None)

    return reconstruct


@jax.jit
def replicate(images: jax.Array) -> jax.Array:
    """On every device: what is looked at on the host."""
    return constrain(images, None, None, None, None)


def reconstructed(
    images: ImageSet,
    reconstruct: Callable[..., jax.Array],
    params: Any,
    sharding: NamedSharding,
    key: jax.Array | None = None,
) -> ImageSet:
    """What `reconstructor` makes of a set of images, as a set in the same order, made when it is read.

    key: of what `decode` draws, if it does; an image's noise then depends on its place in its batch too.
    """

    def read(batch_size: int) -> Batches:
        for number, (rows, mask) in enumerate(images.read(batch_size)):
            batch = to_global({"image": rows}, sharding)["image"]
            more = () if key is None else (jax.random.fold_in(key, number),)
            yield local_rows(reconstruct(params, batch, *more)), mask

    return ImageSet(images.name, images.num, images.size, read)


def is_nested(tokenizer: nn.Module) -> bool:
    """Whether any number of the first tokens can be decoded (`decode(latents, keep)`)."""
    return "keep" in inspect.signature(tokenizer.decode).parameters


def draws(tokenizer: nn.Module) -> bool:
    """Whether decoding is random (`decode(latents, rng=key)`)."""
    return "rng" in inspect.signature(tokenizer.decode).parameters


def first_tokens(tokenizer: nn.Module, image_size: int | tuple[int, int]) -> list[int]:
    """1, 2, 4, ... and all tokens."""
    total = tokenizer.spec(image_size).positions
    return [2**i for i in range(total.bit_length()) if 2**i < total] + [total]


def stripper(tokenizer: nn.Module) -> Callable[..., jax.Array]:
    """(params, uint8 images [N, H, W, 3][, rng]) -> uint8 [N, 1 + S, H, W, 3]: each original and what its
    first 1, 2, 4, ... and all tokens decode to. rng: as of `reconstructor`."""

    @jax.jit
    def strip(params: Any, images: jax.Array, rng: jax.Array | None = None) -> jax.Array:
        variables, n = {"params": params}, len(images)
        key = {} if rng is None else {"rng": rng}
        latents = tokenizer.apply(variables, pixels.to_float(images), method="encode")

        def first(keep: jax.Array) -> jax.Array:  # every length from the same noise
            return tokenizer.apply(variables, latents, jnp.full(n, keep), **key, method="decode")

        recon = jax.lax.map(first, jnp.array(first_tokens(tokenizer, images.shape[1:3])))
        both = jnp.concatenate([images[:, None], pixels.to_uint8(recon).swapaxes(0, 1)], axis=1)
        return constrain(both, None, None, None, None, None)

    return strip
