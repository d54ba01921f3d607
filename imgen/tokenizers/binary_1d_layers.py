"""The halves of the 1D binary tokenizer: tokens of an image in one transformer, its patches in another.

Source: AMD-AIG-AIMA/Instella-T2I, bae/ae_model.py, bae/resize_layers.py.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from imgen.nn.axial_rope import Pairing, Rotation, rotation
from imgen.nn.bidirectional import SHARDING as BLOCKS
from imgen.nn.bidirectional import Block
from imgen.nn.conv import Conv, depth_to_space
from imgen.nn.norms import RMSNorm
from imgen.nn.vit import repeat_tokens
from imgen.params.fields import training

NORM_EPS = 1e-6
Size = tuple[int, int]

SHARDING = (
    *BLOCKS,
    # Between patches, codes and the width, and where a grid is halved or doubled: on every device.
    (
        r"(patch_embedder|(down|up)_\d+/conv|proj_in|proj_out|to_code|from_code|to_pixel)/kernel$",
        (),
    ),
    (r"(latent_tokens|mask_token)$", ()),
)


class TokenPositions(NamedTuple):
    """Says where tokens stand: latent k at (k, 0, 0), the patch in row r and column c at (0, r, c).

    dims: channels of a head that turn with each of the three coordinates.
    scale: rows and columns of every grid are stretched to [0, scale - 1]; None counts them.
    """

    dims: tuple[int, ...]
    pairing: Pairing
    scale: int | None

    def tables(self, grid: Size, latents: int) -> Rotation:
        """Returns the rotation of the patches of a grid, row by row, and then of the latents."""
        sides = [np.arange(n) * self._stretch(n) for n in grid]
        patches = np.stack(np.meshgrid(*sides, indexing="ij"), -1).reshape(-1, 2)
        positions = np.zeros((len(patches) + latents, 3))
        positions[: len(patches), 1:] = patches
        positions[len(patches) :, 0] = np.arange(latents)
        return rotation(positions, self.dims)

    def _stretch(self, side: int) -> float:
        return 1.0 if self.scale is None or side == 1 else (self.scale - 1) / (side - 1)

    def halved(self, times: int = 1) -> "TokenPositions":
        """Returns the positions of a grid of half as many rows and columns, so many times."""
        return self if self.scale is None else self._replace(scale=self.scale // 2**times)

    def doubled(self) -> "TokenPositions":
        """Returns the positions of a grid of twice as many rows and columns."""
        return self if self.scale is None else self._replace(scale=self.scale * 2)


class Halve(nn.Module):
    """Halves a grid, [B, h, w, D] -> [B, h/2, w/2, D]: convolution of stride 2 plus the mean of each 2 x
    2."""

    dtype: Any = training(jnp.float32)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        b, h, w, d = x.shape
        mean = x.reshape(b, h // 2, 2, w // 2, 2, d).mean((2, 4))
        return Conv(d, stride=2, padding=1, dtype=self.dtype, name="conv")(x) + mean


class Double(nn.Module):
    """Doubles a grid, [B, h, w, D] -> [B, 2h, 2w, D]: convolution to 4 D and depth-to-space, plus nearest
    neighbour."""

    dtype: Any = training(jnp.float32)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = Conv(4 * x.shape[-1], padding=1, dtype=self.dtype, name="conv")(x)
        return depth_to_space(y, 2) + x.repeat(2, axis=1).repeat(2, axis=2)


def together(
    block: Block,
    patches: jax.Array,
    latents: jax.Array,
    positions: TokenPositions,
    visible: np.ndarray | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Runs a block on patches [B, h, w, D] and latents [B, K, D] in one row. visible: see `Block`."""
    b, h, w, width = patches.shape
    x = jnp.concatenate([patches.reshape(b, h * w, width), latents], axis=1)
    x = block(x, positions.tables((h, w), latents.shape[1]), visible)
    return x[:, : h * w].reshape(b, h, w, width), x[:, h * w :]


class Encoder(nn.Module):
    """Turns images [B, H, W, 3] into latents [B, K, heads * head_dim], before the projection to logits.

    downsample_idx: blocks after which the patches' grid is halved.
    causal: latent k sees the patches and latents <= k, and patches see only patches: token k can't
        depend on a later one.
    """

    layers: int
    heads: int
    head_dim: int
    num_latents: int
    patch_size: int
    downsample_idx: Sequence[int]
    positions: TokenPositions
    causal: bool = False
    dtype: Any = training(jnp.float32)

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        width, k = self.heads * self.head_dim, self.num_latents
        patch = self.patch_size  # kernel and stride
        embedder = Conv(width, patch, patch, 0, dtype=self.dtype, name="patch_embedder")
        patches = embedder(images)
        latents = self.param("latent_tokens", nn.initializers.normal(0.02), (k, width))
        latents = repeat_tokens(latents, len(images), self.dtype)
        positions = self.positions
        for i in range(self.layers):
            count, visible = patches.shape[1] * patches.shape[2], None
            if self.causal:
                visible = count + np.concatenate([np.zeros(count, int), 1 + np.arange(k)])
            block = Block(
                self.heads, 4 * width, positions.pairing, dtype=self.dtype, name=f"block_{i}"
            )
            patches, latents = together(block, patches, latents, positions, visible)
            if i in self.downsample_idx:
                stage = sorted(self.downsample_idx).index(i)
                patches = Halve(self.dtype, name=f"down_{stage}")(patches)
                positions = positions.halved()
        latents = RMSNorm(NORM_EPS, name="norm_out")(latents)
        return nn.Dense(width, dtype=self.dtype, name="proj_out")(latents)


class Decoder(nn.Module):
    """Turns values [B, K, C] and a grid of patches into tokens [B, h, w, heads * head_dim] before the pixels.

    upsample_idx: blocks after which the grid of mask tokens, which starts small, is doubled.
    inner: the block whose image tokens are returned as well [B, h', w', D].
    """

    layers: int
    heads: int
    head_dim: int
    upsample_idx: Sequence[int]
    positions: TokenPositions
    inner: int | None = None
    dtype: Any = training(jnp.float32)

    @nn.compact
    def __call__(self, values: jax.Array, grid: Size) -> tuple[jax.Array, jax.Array | None]:
        width, times = self.heads * self.head_dim, len(self.upsample_idx)
        latents = RMSNorm(NORM_EPS, name="norm_in")(values)
        latents = nn.Dense(width, dtype=self.dtype, name="proj_in")(latents)
        mask = self.param("mask_token", nn.initializers.normal(0.02), (width,))
        h, w = (side // 2**times for side in grid)
        patches = jnp.broadcast_to(mask, (len(latents), h, w, width)).astype(self.dtype)
        positions, inner = self.positions.halved(times), None
        for i in range(self.layers):
            block = Block(
                self.heads, 4 * width, positions.pairing, dtype=self.dtype, name=f"block_{i}"
            )
            patches, latents = together(block, patches, latents, positions)
            if i == self.inner:
                inner = patches
            if i in self.upsample_idx:
                stage = sorted(self.upsample_idx).index(i)
                patches = Double(self.dtype, name=f"up_{stage}")(patches)
                positions = positions.doubled()
        return RMSNorm(NORM_EPS, name="norm_out")(patches), inner
