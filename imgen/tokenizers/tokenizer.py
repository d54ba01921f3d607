"""The face of all tokenizers: what tasks, commands and evaluation ask about one, with defaults."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax

from imgen.latents import LatentSpec
from imgen.parallel.mesh import Rules
from imgen.tokenizers.losses.semantic import SHARDING as PROJECTORS
from imgen.tokenizers.losses.semantic import make_projector
from imgen.tokenizers.quantizers.base import SHARDING as QUANTIZERS
from imgen.tokenizers.quantizers.base import Quantized

ImageSize = int | tuple[int, int]  # a side, or (H, W)


class Tokenizer(nn.Module):
    """Turns images into latents and back; images are float32 [B, H, W, 3] in [-1, 1].

    A kind of tokenizer is a subclass with `spec`, `encode`, `decode` and `__call__`, the training pass. What
    it has beyond that it says here:

    projectors: its fields that predict a frozen teacher's features, by name, each with the class that a
        config's arguments are for (`losses.semantic`).
    parts: its fields that are tokenizers themselves, trained by other runs.
    frozen: regular expressions of the parameter paths that are never trained.
    last_layer: path of the parameters of `project`, such as ("decoder", "conv_out").
    nested: any number of the first latents decodes: `decode` has an argument `keep`, int or int [B].
    draws: decoding is random: `decode` has an argument `rng`, keys [B], one an image.
    padded: the vocabulary's last id stands for no code; it fills up the rows of images with fewer codes.
    has_moments: its continuous latents are drawn from a distribution whose `moments` can be stored.
    image_size: the only size that it takes; None where that depends on nothing but `spec`.
    guidance_scale: of decoding, where that is guided.
    sharding: where its own parameters live, see `sharding_rules`.
    """

    projectors = {}
    parts = ()
    frozen = ()
    last_layer = ()
    nested = False
    draws = False
    padded = False
    has_moments = False
    image_size = None
    guidance_scale = None
    sharding = ()

    def __post_init__(self):
        for name, kind in self.projectors.items():
            setattr(self, name, make_projector(kind, getattr(self, name), name, self.dtype))
        super().__post_init__()

    @nn.nowrap
    def spec(self, image_size: ImageSize) -> LatentSpec:
        """Describes the latents of images of this size. Raises UserError for one that it cannot take, and for
        settings that do not fit together."""
        raise NotImplementedError

    def encode(self, images: jax.Array, rng: jax.Array | None = None) -> jax.Array:
        """Turns images into latents: deterministic without a key, drawn (where they can be) with one."""
        raise NotImplementedError

    def decode(self, latents: jax.Array) -> jax.Array:
        """Turns latents into images, not clipped but where the published decoder is."""
        raise NotImplementedError

    def moments(self, images: jax.Array) -> jax.Array:
        """Returns what is stored of images where `has_moments`, as `quantizers.Gaussian.moments`."""
        raise NotImplementedError

    def project(self, hidden: jax.Array) -> jax.Array:
        """Applies the last layer alone: hidden features of a training pass -> images, for the adaptive
        adversarial weight."""
        raise NotImplementedError

    def code_features(self, z: jax.Array, codes: jax.Array) -> jax.Array:
        """Turns features and their codes into rows in the space of the codes, one a code: [N, D].
        With a codebook."""
        return self.quantizer.code_features(z, codes)

    @nn.nowrap
    def code_spec(self, image_size: ImageSize) -> LatentSpec:
        """Describes the latents that count as used: `spec` without the id that pads."""
        spec = self.spec(image_size)
        return dataclasses.replace(spec, size=spec.size - 1) if self.padded else spec

    @nn.nowrap
    def projectors_on(self) -> list[str]:
        """Names the projectors that are on: what a teacher's features are for."""
        return [name for name in self.projectors if getattr(self, name) is not None]

    @nn.nowrap
    def sharding_rules(self) -> Rules:
        """Lists where its parameters and those of its parts live."""
        return [*self.sharding, *QUANTIZERS, *PROJECTORS]

    @nn.nowrap
    def training_pass(self, quantized: Quantized, z: jax.Array, **more: Any) -> dict[str, Any]:
        """Collects the dict of a training pass (see `tokenizers`)."""
        out = {"latents": quantized.latents, "losses": quantized.losses, "stats": quantized.stats}
        if self.quantizer.has_codebook:
            out["z"] = z
        return out | more


class QuantizedTokenizer(Tokenizer):
    """Sends its `features` through its `quantizer`, a field, and does nothing else to them."""

    @property
    def has_moments(self) -> bool:
        return self.quantizer.has_moments

    def features(self, images: jax.Array) -> jax.Array:
        """Turns images into what is quantised: [..., features_in]."""
        raise NotImplementedError

    def encode(self, images: jax.Array, rng: jax.Array | None = None) -> jax.Array:
        """Turns images into latents: the likeliest, or drawn with a key if the quantizer can."""
        return self.quantizer.encode(self.features(images), rng)

    def moments(self, images: jax.Array) -> jax.Array:
        """Turns images into mean and log variance of continuous latents: float32 [..., 2 C]."""
        return self.quantizer.moments(self.features(images))
