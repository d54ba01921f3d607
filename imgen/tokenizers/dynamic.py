"""As many tokens as an image needs: LaVIT's dynamic tokenizer, trained here from scratch on pixels.

A selector keeps some of the N patch features, a merger lets the kept ones take up what the others held,
and only the kept ones become codes. Shapes are static: all N positions are computed, and masks say which
of them count. The codes of one image are packed to the front, in raster order, and the id K (one more than
the last code) fills the rest.

Source: "Unified Language-Vision Pretraining in LLM with Dynamic Discrete Visual Tokenization";
jy0205/LaVIT, LaVIT/models/modeling_visual_tokenzier.py, modeling_decoder.py. LaVIT selects from the
features of a frozen EVA-CLIP tower and decodes to those; here a ViT is trained along, and pixels are what
is decoded. Its own training code is not public: the losses follow the paper.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from imgen.errors import UserError
from imgen.latents import LatentSpec, height_width
from imgen.nn.conv import Conv, depth_to_space
from imgen.nn.masked_attention import NORM_EPS, MemoryBlock
from imgen.nn.masked_attention import SHARDING as MEMORY
from imgen.nn.vit import SHARDING as VIT
from imgen.nn.vit import ViT, repeat_tokens
from imgen.params.fields import training
from imgen.tokenizers.losses.semantic import FeatureTarget, teacher_loss
from imgen.tokenizers.quantizers.base import l2_normalize, straight_through
from imgen.tokenizers.quantizers.vector import VectorQuantizer
from imgen.tokenizers.tokenizer import ImageSize, Tokenizer

INIT = nn.initializers.truncated_normal(0.02)  # positions and queries
# Padding is not seen at all; the merger's 1e-6 would let it in where its scores are high.
PADDING_EPSILON = 1e-20

SHARDING = (
    *VIT,
    *MEMORY,
    # What selects, and what is between pixels, codes and the width: on every device.
    (r"(patch_embedder|selector/\w+|proj_in|to_code_hidden|to_code|to_pixel)/kernel$", ()),
    (r"(positions|query_tokens)$", ()),
)


class PatchEncoder(nn.Module):
    """Turns images [B, H, W, 3] into features [B, N, width] of the patches, row by row: a vision
    transformer."""

    patch_size: int
    layers: int
    width: int
    heads: int
    mlp_ratio: float
    dtype: Any = training(jnp.float32)

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        patch = self.patch_size  # kernel and stride
        embedder = Conv(self.width, patch, patch, 0, dtype=self.dtype, name="patch_embedder")
        x = embedder(images)
        x = x.reshape(x.shape[0], -1, self.width)
        x = x + self.param("positions", INIT, x.shape[1:]).astype(x.dtype)
        vit = ViT(self.layers, self.heads, self.mlp_ratio, NORM_EPS, dtype=self.dtype, name="vit")
        return vit(x)


class Selector(nn.Module):
    """Returns float32 log-probabilities [B, N, 2] that each feature [B, N, D] is kept and that it is dropped.

    Half of the channels stay each position's own, the other half is averaged over the image.
    """

    dtype: Any = training(jnp.float32)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]

        def linear(features: int, name: str) -> nn.Module:
            return nn.Dense(features, dtype=self.dtype, name=name)

        x = nn.LayerNorm(NORM_EPS, dtype=self.dtype, name="norm")(x)
        x = nn.gelu(linear(width, "in")(x), approximate=False)
        local, everywhere = jnp.split(x, 2, axis=-1)
        everywhere = jnp.broadcast_to(everywhere.mean(1, keepdims=True), everywhere.shape)
        x = jnp.concatenate([local, everywhere], axis=-1)
        for i in (2, 4):
            x = nn.gelu(linear(width // i, f"hidden_{i}")(x), approximate=False)
        return nn.log_softmax(linear(2, "out")(x).astype(jnp.float32))


def keep_mask(log_p: jax.Array, noise: jax.Array) -> jax.Array:
    """Decides from [B, N, 2]: 1.0 for kept positions, 0.0 for dropped ones, [B, N], with the soft-max's
    gradient.

    noise: standard Gumbel, [B, N, 2] or [N, 2]. Where all would go, the position that comes nearest to
    staying is kept: an image has a token (in LaVIT it may have none).
    """
    scores = log_p + noise
    soft = nn.softmax(scores)[..., 0]
    kept = scores[..., 0] >= scores[..., 1]
    best = jnp.argmax(soft, axis=-1)[:, None] == jnp.arange(soft.shape[1])
    kept = jnp.where(kept.any(-1, keepdims=True), kept, best)
    return straight_through(kept.astype(jnp.float32), soft)


class Merger(nn.Module):
    """Turns features [B, N, D] and the mask [B, N] into features of which the kept ones speak for all.

    A position sees itself and the kept ones before it, and by cross-attention the dropped ones as the
    encoder gave them, normed. Where none is dropped that attention is uniform over all, as in LaVIT's code.
    """

    layers: int
    heads: int
    hidden: int
    dtype: Any = training(jnp.float32)

    @nn.compact
    def __call__(self, features: jax.Array, keep: jax.Array) -> jax.Array:
        n = features.shape[1]
        before, itself = np.tri(n, k=-1, dtype=np.float32), np.eye(n, dtype=np.float32)
        mask = (before * keep[:, None, :] + itself)[:, None]  # [B, 1, N, N]
        dropped = 1.0 - keep[:, None, None, :]  # [B, 1, 1, N]
        memory = nn.LayerNorm(NORM_EPS, dtype=self.dtype, name="norm_in")(features)
        x = features.astype(self.dtype)
        for i in range(self.layers):
            block = MemoryBlock(self.heads, self.hidden, dtype=self.dtype, name=f"block_{i}")
            x = block(x, mask, memory, dropped)
        return nn.LayerNorm(NORM_EPS, dtype=self.dtype, name="norm_out")(x)


class QueryDecoder(nn.Module):
    """Turns values [B, T, C] of packed codes, valid [B, T] (1.0 or 0.0), into features [B, N, D] of all
    positions.

    N learned queries read the codes, which are told apart by their place in the sequence only.
    """

    queries: int
    layers: int
    width: int
    heads: int
    hidden: int
    dtype: Any = training(jnp.float32)

    @nn.compact
    def __call__(self, values: jax.Array, valid: jax.Array) -> jax.Array:
        shape = (self.queries, self.width)
        positions = self.param("positions", INIT, shape)[: values.shape[1]]
        queries = self.param("query_tokens", INIT, shape)
        memory = nn.Dense(self.width, dtype=self.dtype, name="proj_in")(values)
        memory = memory + positions.astype(memory.dtype)
        x = repeat_tokens(queries, len(values), self.dtype)
        for i in range(self.layers):
            block = MemoryBlock(
                self.heads, self.hidden, PADDING_EPSILON, self.dtype, name=f"block_{i}"
            )
            x = block(x, None, memory, valid[:, None, None, :])
        return nn.LayerNorm(NORM_EPS, dtype=self.dtype, name="norm_out")(x)


class DynamicTokenizer(Tokenizer):
    """Turns images in [-1, 1] into 1 to N codes each: int32 [B, N], padded with the id `codebook_size`.

    width, heads, mlp_ratio: of all transformers; merger_layers, decoder_layers as in LaVIT, whose frozen
        tower of 40 layers `encoder_layers` stand for.
    codebook_size, codebook_dim: codes and features are compared on the unit sphere.
    keep_ratio, budget_weight: rho and lambda of lambda * mean over images of (rho - share kept)^2.
    commit_weight: of the commitment loss; it and the codebook loss are means over an image's kept
        positions, then over the batch.
    semantic_target: predicts a teacher's features from the decoder's, whose grid is resized to the teacher's.
    """

    image_size: int | tuple[int, int] = 224
    patch_size: int = 14
    width: int = 1408
    heads: int = 16
    mlp_ratio: float = 4.3637
    encoder_layers: int = 12
    merger_layers: int = 12
    decoder_layers: int = 12
    codebook_size: int = 16384
    codebook_dim: int = 32
    keep_ratio: float = 1 / 3
    budget_weight: float = training(2.0)
    commit_weight: float = training(0.25)
    semantic_target: FeatureTarget | Mapping[str, Any] | None = None
    dtype: Any = training(jnp.float32)

    projectors = {"semantic_target": FeatureTarget}
    last_layer = ("to_pixel",)
    padded = True
    sharding = SHARDING

    def setup(self):
        patch, hidden = self.patch_size, int(self.width * self.mlp_ratio)
        positions = self.grid()[0] * self.grid()[1]
        common = {"heads": self.heads, "hidden": hidden, "dtype": self.dtype}
        self.encoder = PatchEncoder(
            patch, self.encoder_layers, self.width, self.heads, self.mlp_ratio, self.dtype
        )
        self.selector = Selector(self.dtype)
        self.merger = Merger(self.merger_layers, **common)
        self.to_code_hidden = nn.Dense(self.width, dtype=self.dtype)
        self.to_code = nn.Dense(self.codebook_dim)
        self.quantizer = VectorQuantizer(self.codebook_size, self.codebook_dim)
        self.decoder = QueryDecoder(positions, self.decoder_layers, self.width, **common)
        self.to_pixel = nn.Dense(3 * patch**2, dtype=self.dtype)

    @nn.nowrap
    def grid(self) -> tuple[int, int]:
        """Returns rows and columns of patches."""
        size = height_width(self.image_size)
        if any(side % self.patch_size for side in size):
            raise UserError(
                f"images of {size[0]}x{size[1]} cannot be cut into patches of {self.patch_size}: "
                f"set tokenizer.patch_size to a divisor"
            )
        return size[0] // self.patch_size, size[1] // self.patch_size

    @nn.nowrap
    def spec(self, image_size: ImageSize) -> LatentSpec:
        """Describes one position a patch; the vocabulary counts the padding id. Positions are learned, so
        that another size than the field's is a UserError."""
        if height_width(image_size) != height_width(self.image_size):
            raise UserError(
                f"the tokenizer is made for images of {self.image_size}, not {image_size}: "
                f"set tokenizer.image_size to {image_size}"
            )
        rows, columns = self.grid()
        return LatentSpec("index", (rows * columns,), self.codebook_size + 1)

    def patch_features(self, images: jax.Array) -> jax.Array:
        """Turns images [B, H, W, 3] into features [B, N, D] of the patches, row by row, before the
        selection."""
        self.spec(images.shape[1:3])
        return self.encoder(images)

    def select(self, features: jax.Array, rng: jax.Array | None = None) -> jax.Array:
        """Selects from features [B, N, D], a mask [B, N]: drawn with a key, as LaVIT always does.

        Without one, every image gets the same fixed noise. The likelier choices would be no substitute:
        only draws are held to the budget, and probabilities near a half would keep or drop all at once.
        """
        log_p = self.selector(features)
        if rng is None:
            noise = jax.random.gumbel(jax.random.key(0, impl="threefry2x32"), log_p.shape[1:])
        else:
            noise = jax.random.gumbel(rng, log_p.shape)
        return keep_mask(log_p, noise)

    def code_inputs(self, features: jax.Array, keep: jax.Array) -> jax.Array:
        """Turns features and mask into what is quantised, at all positions: float32 [B, N, codebook_dim]."""
        x = nn.tanh(self.to_code_hidden(self.merger(features, keep)))
        return l2_normalize(self.to_code(x.astype(jnp.float32)))

    def encode(self, images: jax.Array, rng: jax.Array | None = None) -> jax.Array:
        """Turns images into packed codes int32 [B, N]; the selection is drawn with a key, see `select`."""
        features = self.patch_features(images)
        keep = self.select(features, rng)
        codes = self.quantizer.encode(self.code_inputs(features, keep))
        return self._packed_codes(codes, keep, pack_order(keep))

    def decode(self, latents: jax.Array) -> jax.Array:
        """Turns packed codes [B, N] into images [B, H, W, 3], not clipped."""
        return self.project(self._hidden(*self.code_values(latents)))

    def code_values(self, latents: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Looks up packed codes [B, N]: their values [B, N, codebook_dim], and 1.0 where there is a code."""
        valid = latents < self.codebook_size
        codes = jnp.where(valid, latents, 0)
        return self.quantizer.decode(codes), valid.astype(jnp.float32)

    def project(self, hidden: jax.Array) -> jax.Array:
        """Applies the last layer alone: features [B, h, w, D] -> float32 images [B, H, W, 3]."""
        return depth_to_space(self.to_pixel(hidden), self.patch_size).astype(jnp.float32)

    def features(self, images: jax.Array, rng: jax.Array | None = None) -> jax.Array:
        """Turns images [B, H, W, 3] into what is quantised, float32 [B, N, codebook_dim], as z of a
        training pass."""
        features = self.patch_features(images)
        keep = self.select(features, rng)
        return _kept_rows(self.code_inputs(features, keep), keep)

    def code_features(self, z: jax.Array, codes: jax.Array) -> jax.Array:
        """Turns features into one row a position, among the codes, without gradient: [N, codebook_dim]."""
        del codes
        return jax.lax.stop_gradient(z).reshape(-1, self.codebook_dim)

    def __call__(
        self,
        images: jax.Array,
        rng: jax.Array | None = None,
        teacher: jax.Array | None = None,
    ) -> dict[str, Any]:
        """Runs a training pass (see `tokenizers`).

        z is packed as the latents are; instead of dropped positions it repeats kept ones, so that all
        its rows are features that become codes.
        teacher: features [B, M, F] of a frozen model, for `semantic_target`, which must have them with
        a key (in training).
        """
        features = self.patch_features(images)
        keep = self.select(features, rng)
        z = self.code_inputs(features, keep)
        codes = self.quantizer.encode(z)
        values = self.quantizer.decode(codes)
        order = pack_order(keep)

        packed = take_positions(straight_through(values, z), order)
        hidden = self._hidden(packed, take_positions(keep, order))
        kept, fixed_z, fixed_values = jax.lax.stop_gradient((keep, z, values))
        count = kept.sum(-1)  # [B]

        def distance(a: jax.Array, b: jax.Array) -> jax.Array:
            each = jnp.mean(jnp.square(a - b), axis=-1)  # [B, N]
            return jnp.mean(jnp.sum(kept * each, axis=-1) / count)

        excess = self.keep_ratio - keep.mean(-1)
        losses = {
            "codebook": distance(values, fixed_z),
            "commit": self.commit_weight * distance(fixed_values, z),
            "budget": self.budget_weight * jnp.mean(jnp.square(excess)),
        }
        target = self.semantic_target
        losses |= teacher_loss("semantic_target", target, hidden, teacher, rng)
        return {
            "recon": self.project(hidden),
            "latents": self._packed_codes(codes, keep, order),
            "losses": losses,
            "stats": {"token_count": jnp.mean(count)},
            "hidden": hidden,
            "z": _kept_rows(z, keep),
        }

    def _hidden(self, values: jax.Array, valid: jax.Array) -> jax.Array:
        x = self.decoder(values, valid)
        return x.reshape(x.shape[0], *self.grid(), self.width)

    def _packed_codes(self, codes: jax.Array, keep: jax.Array, order: jax.Array) -> jax.Array:
        marked = jnp.where(keep > 0.5, codes, self.codebook_size)
        return take_positions(marked, order)


def pack_order(keep: jax.Array) -> jax.Array:
    """Orders the positions of [B, N], int32 [B, N]: kept ones first, both kinds in raster order."""
    return jnp.argsort(keep < 0.5, axis=-1, stable=True).astype(jnp.int32)


def take_positions(x: jax.Array, order: jax.Array) -> jax.Array:
    """Takes x [B, N] or [B, N, C] in another order of its positions."""
    return jnp.take_along_axis(x, order.reshape(*order.shape, *(1,) * (x.ndim - 2)), axis=1)


def _kept_rows(z: jax.Array, keep: jax.Array) -> jax.Array:
    """Packs rows of z [B, N, C], the kept ones again and again instead of the dropped ones."""
    count = jax.lax.stop_gradient(keep).sum(-1, keepdims=True).astype(jnp.int32)
    cycle = jnp.arange(keep.shape[1]) % count
    return take_positions(z, take_positions(pack_order(keep), cycle))
