"""TiTok: an image as K tokens in a row.

A vision transformer reads patches and K latent tokens and keeps the latter; they are quantised; a second
one reads them beside mask tokens, one for each patch, and keeps those. Sources: "An Image is Worth 32
Tokens for Reconstruction and Generation" (TiTok, two stages), "Democratizing Text-to-Image Masked
Generative Models with Compact Text-Aware One-Dimensional Tokens" (TA-TiTok, one stage; its decoder's
text guidance is left out); bytedance/1d-tokenizer, modeling/titok.py and modules/blocks.py.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from imgen.config.construct import construct
from imgen.errors import UserError
from imgen.latents import LatentSpec, height_width
from imgen.parallel.mesh import Rules
from imgen.params.fields import silent, training
from imgen.tokenizers.conv import ConvTokenizer
from imgen.tokenizers.quantizers import Quantizer, make_quantizer
from imgen.tokenizers.ranges import whole_numbers
from imgen.tokenizers.titok_layers import SHARDING, Decoder, Encoder, Size, ToCodes, ToPixels
from imgen.tokenizers.tokenizer import ImageSize, QuantizedTokenizer
from imgen.tokenizers.vq import maskgit_vqgan

# (width, layers, heads)
SIZES = {"small": (512, 8, 8), "base": (768, 12, 12), "large": (1024, 24, 16)}
HEADS = ("pixels", "codes", "mixture")


class TiTok(QuantizedTokenizer):
    """Turns images [B, S, S, 3] in [-1, 1] into K latents and back. The defaults are TiTok-BL-64's.

    quantizer: a module, or its name in `quantizers.QUANTIZERS` with its arguments, such as {"name": "vq",
        "codebook_size": 8192, ...}. Published are VectorQuantizer and Gaussian.
    num_latents: K. image_size: S, the only one that this model takes.
    encoder_size, decoder_size: a name of SIZES or (width, layers, heads).
    encoder_patch, decoder_patch: pixels a side.
    head: what the decoder makes.
        "pixels": images. One stage: reconstruction losses train everything.
        "codes": logits over the codes of a frozen `proxy` tokenizer. The first of two stages: the loss
            is their cross-entropy, and `decode` shows the proxy's picture of the likeliest codes.
        "mixture": the second stage: the proxy's decoder draws the mixture of its codes, weighted by
            their probabilities. Encoder, latent tokens and quantizer are frozen; decoder and proxy
            (its codebook and its decoder; the encoder is gone) are trained by reconstruction losses.
    proxy: with "codes" and "mixture", a tokenizer with a codebook whose grid is the decoder's.
    legacy: see `Encoder`; the published two-stage models are so.
    causal_1d: the encoder's latent k sees latents up to k only, and patches see no latents, so that
        code k does not depend on the later queries. Not in the papers.
    remat: recompute the blocks in the backward pass. dtype: of the transformers' computation.
    """

    quantizer: Quantizer | Mapping[str, Any]
    num_latents: int = 64
    image_size: int = 256
    encoder_size: str | Sequence[int] = "base"
    decoder_size: str | Sequence[int] = "large"
    encoder_patch: int = 16
    decoder_patch: int = 16
    head: Literal["pixels", "codes", "mixture"] = "pixels"
    proxy: ConvTokenizer | None = None
    legacy: bool = silent(False)
    causal_1d: bool = False
    remat: bool = training(False)
    dtype: Any = training(jnp.float32)

    parts = ("proxy",)
    sharding = SHARDING

    def __post_init__(self):
        self.quantizer = make_quantizer(self.quantizer)
        super().__post_init__()

    def setup(self):
        self.spec(self.image_size)
        common = {"remat": self.remat, "dtype": self.dtype}
        size = named_size(self.encoder_size)
        layout = self.quantizer.layout
        self.latent_tokens = self.param(
            "latent_tokens", nn.initializers.normal(size[0] ** -0.5), (self.num_latents, size[0])
        )
        self.encoder = Encoder(
            size, self.encoder_patch, layout.features_in, self.legacy, self.causal_1d, **common
        )
        grid = self.image_size // self.decoder_patch
        self.decoder = Decoder(named_size(self.decoder_size), grid, **common)
        if self.head == "pixels":
            self.pixel_head = ToPixels(self.decoder_patch, self.dtype)
        else:
            self.code_head = ToCodes(self.proxy.spec(self.image_size).size, self.dtype)

    @nn.nowrap
    def spec(self, image_size: ImageSize) -> LatentSpec:
        """Describes K latents in a row. Raises UserError for settings that do not fit together and for
        images of another size than the model's."""
        size = height_width(image_size)
        if size != (self.image_size, self.image_size):
            raise UserError(
                f"this TiTok takes images of {self.image_size}x{self.image_size}, not "
                f"{size[0]}x{size[1]}: change tokenizer.image_size or the data's size"
            )
        self._check()
        return self.quantizer.layout.spec((self.num_latents,))

    @nn.nowrap
    def sharding_rules(self) -> Rules:
        """Lists where its parameters live, the proxy's among them."""
        rules = super().sharding_rules()
        return rules if self.proxy is None else [*rules, *self.proxy.sharding_rules()]

    @nn.nowrap
    def _check(self) -> None:
        """Raises UserError for fields that do not fit together."""
        for name in ("encoder_patch", "decoder_patch"):
            if self.image_size % getattr(self, name):
                raise UserError(
                    f"tokenizer.{name} {getattr(self, name)} does not divide images of "
                    f"{self.image_size} pixels"
                )
        if self.head not in HEADS:
            raise UserError(f"tokenizer.head {self.head!r} is none of {', '.join(HEADS)}")
        if (self.proxy is None) != (self.head == "pixels"):
            raise UserError(
                "tokenizer.proxy goes with the heads codes and mixture, which need it, and not with "
                f"pixels; the head is {self.head}"
            )
        if self.proxy is not None:
            grid, theirs = (
                (self.image_size // self.decoder_patch,) * 2,
                self.proxy.spec(self.image_size),
            )
            if not isinstance(self.proxy, ConvTokenizer) or theirs.kind != "index":
                raise UserError(
                    "tokenizer.proxy must be a convolutional tokenizer with codes, as vq is"
                )
            if theirs.grid != grid:
                raise UserError(
                    f"the proxy has a grid of {theirs.grid}, the decoder one of {grid}: "
                    f"change tokenizer.decoder_patch"
                )
        if self.legacy and self.causal_1d:
            raise UserError("legacy mixes the tokens, so causal_1d needs tokenizer.legacy=False")

    @property
    def frozen(self) -> tuple[str, ...]:
        """Names the parameters that training leaves alone."""
        return {
            "pixels": (),
            "codes": ("^proxy/",),
            "mixture": ("^encoder/", "^latent_tokens$", "^quantizer/"),
        }[self.head]

    @property
    def last_layer(self) -> tuple[str, ...]:
        """Says where the parameters of `project` are."""
        if self.head == "pixels":
            return ("pixel_head", "conv_out")
        return ("proxy", *self.proxy.last_layer)

    def features(self, images: jax.Array) -> jax.Array:
        """Turns images [B, S, S, 3] into what is quantised: [B, K, features_in]."""
        self.spec(images.shape[1:3])
        return self.encoder((images + 1.0) / 2.0, self.latent_tokens)

    def decode(self, latents: jax.Array) -> jax.Array:
        """Turns latents into images, not clipped."""
        values = self.quantizer.decode(latents)
        if self.head == "codes":
            return self.proxy.decode(jnp.argmax(self.proxy_logits(values), axis=-1))
        return self.project(self.hidden(values))

    def proxy_logits(self, values: jax.Array) -> jax.Array:
        """Turns values [B, K, features_out] into logits [B, h, w, codes of the proxy]."""
        return self.code_head(self.decoder(values))

    def mixture(self, logits: jax.Array) -> jax.Array:
        """Mixes the proxy's codes by the logits over them: [B, h, w, D]."""
        table = self.proxy.quantizer.decode(jnp.arange(logits.shape[-1]))
        return jnp.matmul(nn.softmax(logits, axis=-1), table, precision="highest")

    def hidden(self, values: jax.Array) -> jax.Array:
        """Computes everything before the layer that makes pixels, of values."""
        if self.head == "pixels":
            return self.pixel_head.hidden(self.decoder(values))
        mixture, conv = self.mixture(self.proxy_logits(values)), self.proxy.post_quant_conv
        return self.proxy.decoder.hidden(mixture if conv is None else conv(mixture))

    def project(self, hidden: jax.Array) -> jax.Array:
        """Applies the last layer alone: hidden features -> images [B, S, S, 3]."""
        if self.head == "pixels":
            return 2.0 * self.pixel_head.project(hidden) - 1.0
        return self.proxy.project(hidden)

    def __call__(self, images: jax.Array, rng: jax.Array | None = None) -> dict[str, Any]:
        """Runs a training pass (see `tokenizers`). Without `recon` where the head makes codes."""
        z = self.features(images)
        quantized = self.quantizer(z, rng)
        out = self.training_pass(quantized, z)
        if self.head == "mixture":  # what is frozen has no losses
            hidden = self.hidden(jax.lax.stop_gradient(quantized.values))
            return out | {"losses": {}, "hidden": hidden, "recon": self.project(hidden)}
        if self.head == "pixels":
            hidden = self.hidden(quantized.values)
            return out | {"hidden": hidden, "recon": self.project(hidden)}

        codes = self.proxy.encode(images)
        if self.is_initializing():
            self.proxy.decode(codes)  # for its parameters: training needs its encoder only
        logits = self.proxy_logits(quantized.values)
        nll = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, codes))
        right = jnp.mean(jnp.argmax(logits, axis=-1) == codes)
        return out | {
            "losses": {**quantized.losses, "proxy": nll},
            "stats": {**quantized.stats, "proxy_accuracy": right},
        }


def named_size(size: str | Sequence[int]) -> Size:
    """Looks up a name of SIZES; a size is itself. Raises UserError for anything else."""
    if isinstance(size, str) and size in SIZES:
        return SIZES[size]
    if whole_numbers(size, 1) and len(size) == 3:
        return tuple(size)
    raise UserError(
        f"TiTok's size {size!r} is none of {', '.join(SIZES)}; or give (width, layers, heads)"
    )


def _vq(codes: int, channels: int, l2_norm: bool) -> dict[str, Any]:
    return {"name": "vq", "codebook_size": codes, "codebook_dim": channels, "l2_norm": l2_norm}


def _preset(encoder: str, decoder: str, latents: int, **others: Any) -> dict[str, Any]:
    size = {"encoder_size": encoder, "decoder_size": decoder, "num_latents": latents}
    return {**size, **others}


_TWO_STAGES = {
    "quantizer": _vq(4096, 12, True),
    "head": "mixture",
    "legacy": True,
}
_VQ = {"quantizer": _vq(8192, 64, False)}
_VAE = {"quantizer": {"name": "gaussian", "channels": 16, "kl_weight": 1e-6}}

# The published models. The first three are as released, after their second stage: head="codes" gives the
# first one.
PRESETS = {
    "titok_l32": _preset("large", "large", 32, **_TWO_STAGES),
    "titok_b64": _preset("base", "base", 64, **_TWO_STAGES),
    "titok_s128": _preset("small", "small", 128, **_TWO_STAGES),
    "titok_bl64": _preset("base", "large", 64, **_VQ),
    "titok_bl128": _preset("base", "large", 128, **_VQ),
    "titok_sl256": _preset("small", "large", 256, **_VQ),
    "titok_ll32_vae": _preset("large", "large", 32, **_VAE),
    "titok_bl64_vae": _preset("base", "large", 64, **_VAE),
    "titok_bl128_vae": _preset("base", "large", 128, **_VAE),
}


def published(name: str, **changes: Any) -> TiTok:
    """Builds the model PRESETS[name] with changes. Where its head needs a proxy, that is MaskGIT's VQGAN
    unless another is given. Raises UserError for an argument that TiTok doesn't have."""
    arguments = {**PRESETS[name], **changes}
    if arguments.get("head", "pixels") != "pixels" and "proxy" not in changes:
        arguments["proxy"] = maskgit_vqgan(dtype=arguments.get("dtype", jnp.float32))
    return construct(TiTok, arguments, "tokenizer")


BUILDERS = {name: functools.partial(published, name) for name in PRESETS}
