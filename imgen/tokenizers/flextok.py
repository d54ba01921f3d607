"""FlexTok: images <-> an ordered row of FSQ codes, of which any prefix decodes to an image.

A transformer writes the latents of a frozen VAE (or the pixels) into K registers; a rectified-flow
transformer draws the latents again, given the first k of them. Nested dropout, a random k for each
image in training, makes the first registers hold what matters most.

Source: "FlexTok: Resampling Images into 1D Token Sequences of Flexible Length"; apple/ml-flextok.
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from imgen.diffusion import flow
from imgen.errors import UserError
from imgen.latents import LatentSpec, height_width
from imgen.parallel.mesh import Rules
from imgen.params.fields import training
from imgen.tokenizers.flextok_layers import SHARDING, FlowDecoder, RegisterEncoder
from imgen.tokenizers.losses.repa import Projector
from imgen.tokenizers.losses.semantic import teacher_loss
from imgen.tokenizers.quantizers import FSQ, Quantizer, make_quantizer
from imgen.tokenizers.tokenizer import ImageSize, Tokenizer

NESTED_DROPOUT = ("uniform", "pow2")


def fixed_key() -> jax.Array:
    """Returns the key where none is given: the same codes give the same image, whatever JAX's default
    generator."""
    return jax.random.key(0, impl="threefry2x32")


def sample_keep(rng: jax.Array, shape: tuple[int, ...], registers: int, rule: str) -> jax.Array:
    """Draws how many registers each image keeps in training, int32 in [1, registers].

    rule: "uniform" over 1 .. registers, or "pow2": over 1, 2, 4, ... and registers. UserError for another.
    """
    if rule not in NESTED_DROPOUT:
        raise UserError(f"nested_dropout {rule!r} is none of {', '.join(NESTED_DROPOUT)}")
    sizes = np.arange(1, registers + 1)
    if rule == "pow2":
        sizes = np.union1d(2 ** np.arange(registers.bit_length()), [registers])
    return jax.random.choice(rng, jnp.asarray(sizes, jnp.int32), shape)


class FlexTok(Tokenizer):
    """Encodes into registers, quantises them, decodes by a rectified flow. The defaults are those of
    FlexTok d12-d12.

    vae: a trained tokenizer of kind "continuous", whose latents are coded and which is never trained
        here; None takes the pixels themselves as latents (then `patch` is cut from the image).
    image_size: of the images, a number or (height, width): the codes of an image don't tell it.
    registers: K, codes of an image.
    encoder_width, encoder_depth, decoder_width, decoder_depth, head_dim, mlp_ratio, patch (p),
        time_features, max_timestep, final_modulation: see `flextok_layers`.
    quantizer: a module, or its name in `quantizers.QUANTIZERS` with its arguments, such as {"name":
        "fsq", "levels": (8, 5, 5, 5)}.
    nested_dropout: see `sample_keep`.
    null_dropout: share of the images that train the unconditional velocity, for guidance.
    time_sampling, mode_scale, stratified: of the training times, see `flow.sample_times`.
    repa: a `repa.Projector`, or its arguments, such as {"features": 1024}, which predicts a teacher's
        features from the decoder's patches, whose grid is resized to the teacher's. None for no such loss.
    steps, guidance_scale: of decoding; guidance is projected (APG), 1 means none.
    remat: recompute the blocks in the backward pass.
    dtype: of the transformers; the VAE has its own. Quantisation, flow and losses are float32.
    """

    vae: Tokenizer | None = None
    image_size: int | tuple[int, int] = 256
    registers: int = 256
    encoder_width: int = 768
    encoder_depth: int = 12
    decoder_width: int = 768
    decoder_depth: int = 12
    head_dim: int = 64
    mlp_ratio: float = 4.0
    patch: int = 2
    quantizer: Quantizer | Mapping[str, Any] = FSQ()
    nested_dropout: str = training("uniform")
    null_dropout: float = training(0.1)
    time_sampling: str = training("logit_normal")
    mode_scale: float = training(0.25)
    stratified: bool = training(True)
    time_features: int = 256
    max_timestep: float = 1.0
    final_modulation: bool = True
    repa: Projector | Mapping[str, Any] | None = None
    steps: int = 25
    guidance_scale: float = 7.5
    remat: bool = training(False)
    dtype: Any = training(jnp.float32)

    parts = ("vae",)
    projectors = {"repa": Projector}
    nested = True
    draws = True
    sharding = SHARDING

    def __post_init__(self):
        self.quantizer = make_quantizer(self.quantizer)
        super().__post_init__()

    def setup(self):
        common = {
            "registers": self.registers,
            "head_dim": self.head_dim,
            "mlp_ratio": self.mlp_ratio,
            "patch": self.patch,
            "remat": self.remat,
            "dtype": self.dtype,
        }
        self.encoder = RegisterEncoder(
            self.encoder_width,
            self.encoder_depth,
            features=self.quantizer.layout.features_in,
            **common,
        )
        self.decoder = FlowDecoder(
            self.decoder_width,
            self.decoder_depth,
            channels=self.latent_shape()[-1],
            time_features=self.time_features,
            max_timestep=self.max_timestep,
            final_modulation=self.final_modulation,
            **common,
        )

    @property
    def frozen(self) -> tuple[str, ...]:
        """Names the VAE's parameters."""
        return () if self.vae is None else (r"^vae/",)

    @nn.nowrap
    def sharding_rules(self) -> Rules:
        """Lists where its parameters live, the VAE's among them."""
        rules = super().sharding_rules()
        return rules if self.vae is None else [*rules, *self.vae.sharding_rules()]

    @nn.nowrap
    def latent_shape(self) -> tuple[int, int, int]:
        """Returns (h, w, C) of an image's latents. Raises UserError if they cannot be cut into patches."""
        size = height_width(self.image_size)
        spec = LatentSpec("continuous", size, 3) if self.vae is None else self.vae.spec(size)
        if spec.kind != "continuous" or len(spec.grid) != 2:
            raise UserError(
                f"FlexTok's vae must give continuous latents on a 2D grid, not {spec.kind} on {spec.grid}"
            )
        if any(side % self.patch for side in spec.grid):
            raise UserError(
                f"latents of {spec.grid[0]}x{spec.grid[1]} cannot be cut into patches of {self.patch}: "
                "change image_size or patch"
            )
        return (*spec.grid, spec.size)

    @nn.nowrap
    def spec(self, image_size: ImageSize) -> LatentSpec:
        """Describes the codes of images of this size, which must be the module's own (UserError)."""
        ours, given = height_width(self.image_size), height_width(image_size)
        if ours != given:
            raise UserError(
                f"the tokenizer is for images of {ours[0]}x{ours[1]}, not {given[0]}x{given[1]}: "
                "set tokenizer.image_size"
            )
        self.latent_shape()
        if self.repa is not None:
            self.repa.check_layer(self.decoder_depth)
        return self.quantizer.layout.spec((self.registers,))

    def to_latents(self, images: jax.Array, rng: jax.Array | None = None) -> jax.Array:
        """Turns images [B, H, W, 3] into what is coded, float32 [B, h, w, C], without gradient: the mode of
        the VAE's posterior, or a sample with a key."""
        self.spec(images.shape[1:3])
        latents = images if self.vae is None else self.vae.encode(images, rng)
        return jax.lax.stop_gradient(latents.astype(jnp.float32))

    def to_images(self, latents: jax.Array) -> jax.Array:
        """Turns latents [B, h, w, C] into images [B, H, W, 3], not clipped."""
        return latents if self.vae is None else self.vae.decode(latents)

    def features(self, latents: jax.Array) -> jax.Array:
        """Turns latents [B, h, w, C] into what is quantised, float32 [B, K, F]."""
        return self.encoder(latents)

    def encode(self, images: jax.Array, rng: jax.Array | None = None) -> jax.Array:
        """Turns images [B, H, W, 3] into codes int32 [B, K]; a key samples the VAE's posterior."""
        return self.quantizer.encode(self.features(self.to_latents(images, rng)))

    def decode(
        self,
        codes: jax.Array,
        keep: jax.Array | int | None = None,
        rng: jax.Array | None = None,
        steps: int | None = None,
        guidance: flow.ProjectedGuidance | None = None,
    ) -> jax.Array:
        """Turns codes [B, k], k <= K, into images [B, H, W, 3], not clipped.

        keep: how many codes count, one number or int [B], from 1; all k by default. Those behind are ignored.
        rng: draws the noise that decoding starts from: keys [B], one an image, or one key for all, which then
            start from the same noise, so that the same codes give the same image in any batch; so does
            jax.random.key(0) where none is given.
        steps: Euler steps.   guidance: e.g. `flow.ProjectedGuidance(3.0)`. The module's own by default.

        Raises UserError for more codes than the module has registers, or a number `keep` out of range.
        """
        rng = fixed_key() if rng is None else rng
        shape = self.latent_shape()
        if rng.ndim:
            noise = jax.vmap(lambda key: jax.random.normal(key, shape))(rng)
        else:
            noise = jnp.broadcast_to(jax.random.normal(rng, shape), (len(codes), *shape))
        return self.to_images(self.draw_latents(codes, noise, keep, steps, guidance))

    def draw_latents(
        self,
        codes: jax.Array,
        noise: jax.Array,
        keep: jax.Array | int | None = None,
        steps: int | None = None,
        guidance: flow.ProjectedGuidance | None = None,
    ) -> jax.Array:
        """Decodes as `decode` from given noise [B, h, w, C], without the VAE: latents [B, h, w, C]."""
        batch, given = codes.shape[:2]
        if given > self.registers:
            raise UserError(f"{given} codes an image, but the tokenizer has {self.registers}")
        keep = given if keep is None else keep
        if isinstance(keep, int) and not 1 <= keep <= given:
            raise UserError(f"keep={keep} codes of {given}: give a number from 1 to {given}")
        keep = jnp.broadcast_to(jnp.asarray(keep, jnp.int32), batch)
        guidance = flow.apg(self.guidance_scale) if guidance is None else guidance

        padding = [(0, 0), (0, self.registers - given), *[(0, 0)] * (codes.ndim - 2)]
        values = self.quantizer.decode(jnp.pad(codes, padding))
        conditional = self.decoder.condition(values, keep, jnp.zeros(batch, bool))
        unconditional = self.decoder.condition(values, keep, jnp.ones(batch, bool))
        both_conditions = jnp.concatenate([conditional, unconditional])
        decoder, variables = self.decoder.unbind()  # Linen's bound modules cannot enter lax.scan

        def velocity(x: jax.Array, t: jax.Array, condition: jax.Array = conditional) -> jax.Array:
            return decoder.apply(variables, x, jnp.full(len(x), t), condition)[0]

        def both(x: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
            v = velocity(jnp.concatenate([x, x]), t, both_conditions)
            return v[:batch], v[batch:]

        times = flow.linear_times(self.steps if steps is None else steps)
        return flow.solve(velocity, noise, times, guidance=guidance, both=both)

    def __call__(
        self,
        images: jax.Array,
        rng: jax.Array | None = None,
        teacher: jax.Array | None = None,
    ) -> dict[str, Any]:
        """Runs a training pass (see `tokenizers`): losses "flow" and, given a teacher, "repa".

        rng: draws the VAE's sample, times, noise, kept registers and null images. Without one, times
            and noise come from jax.random.key(0), all registers are kept and no image is null.
        teacher: features [B, M, F] of the images, where `repa` is on: training needs them (UserError).
        """
        batch = len(images)
        keys = jax.random.split(fixed_key() if rng is None else rng, 6)
        x0 = self.to_latents(images, None if rng is None else keys[0])
        z = self.features(x0)
        quantized = self.quantizer(z, None if rng is None else keys[5])
        if rng is None:
            keep, null = jnp.full(batch, self.registers), jnp.zeros(batch, bool)
        else:
            keep = sample_keep(keys[1], (batch,), self.registers, self.nested_dropout)
            null = jax.random.bernoulli(keys[2], self.null_dropout, (batch,))
        t = flow.sample_times(
            keys[3], (batch,), self.time_sampling, self.stratified, self.mode_scale
        )
        eps = jax.random.normal(keys[4], x0.shape)
        condition = self.decoder.condition(quantized.values, keep, null)
        velocity, features = self.decoder(
            flow.interpolate(x0, eps, t),
            t,
            condition,
            features_at=None if self.repa is None else self.repa.layer,
        )
        losses = {**quantized.losses, "flow": jnp.mean(flow.squared_error(velocity, x0, eps))}
        losses |= teacher_loss("repa", self.repa, features, teacher, rng)
        if self.vae is not None and self.is_initializing():
            self.vae.decode(x0)
        # The flow loss starts at 1 + the mean square of the latents: they should be of deviation 1.
        stats = {**quantized.stats, "latent_std": jnp.std(x0)}
        return self.training_pass(quantized, z, losses=losses, stats=stats)


def _sizes(encoder: int, decoder: int) -> dict[str, int]:
    """Sizes a model: published ones are 64 channels wide for each block of their depth."""
    return {
        "encoder_width": 64 * encoder,
        "encoder_depth": encoder,
        "decoder_width": 64 * decoder,
        "decoder_depth": decoder,
    }


# The transformers' parameters, without the VAE: 255 M, 860 M and 2.45 B.
PRESETS = {
    "flextok_d12_d12": _sizes(12, 12),
    "flextok_d18_d18": _sizes(18, 18),
    "flextok_d18_d28": _sizes(18, 28),
}
BUILDERS = {name: functools.partial(FlexTok, **preset) for name, preset in PRESETS.items()}
