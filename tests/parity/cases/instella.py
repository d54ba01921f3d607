"""Instella-T2I: the 1D binary tokenizer, the transformer of bits and the bit-flip diffusion model."""

import jax
import jax.numpy as jnp
import numpy as np

from imgen.conditioning import LayerText
from imgen.decoding import Filters, Sampling, decoding_params, generate
from imgen.decoding.bit_diffusion import clean_probability, next_probability, times
from imgen.decoding.guidance import guide
from imgen.generators.bit_diffusion import BitDiffusion, denoising_nll, noisy_probability
from imgen.interop.instella import (
    UNUSED,
    diffusion_rows,
    generator_from_config,
    rows,
    tokenizer_from_config,
    tokenizer_rows,
)
from imgen.interop.table import from_official, to_official
from imgen.latents import bits
from tests.parity.compare import nchw, nhwc
from tests.parity.golden import Golden


def condition(golden: Golden) -> dict:
    text = jnp.moveaxis(jnp.asarray(golden.input("llm_features")), 0, 1)  # [B, L, C, R]
    return {"text": text, "text_mask": jnp.asarray(golden.input("text_mask"))}


def import_params(table, like, golden: Golden, ignore=()) -> dict:
    state = golden.params()
    params = from_official(table, state, like, ignore)
    for key, value in to_official(table, params).items():
        np.testing.assert_array_equal(value, state[key])
    return params


def tokenizer(golden: Golden) -> None:
    close = {k: golden.meta["tolerance"][k] for k in ("atol", "rtol")}
    images = jnp.asarray(nhwc(golden.input("image")))
    size, patch = images.shape[1:3], golden.config["patch_size"]
    params = None
    for prefix, scale in (("", None), ("scaled_", golden.meta["scale_pixels_for_out_scaled"])):
        model = tokenizer_from_config(golden.config, image_size=size, position_scale=scale)
        if params is None:
            like = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
            params = import_params(tokenizer_rows(model), like, golden)
        bound = model.bind({"params": params})

        def same(ours, name, prefix=prefix):
            np.testing.assert_allclose(ours, golden.out(prefix + name), **close, err_msg=name)

        grid, latents = model.grid(size), golden.config["num_latent_tkns"]
        assert grid == (size[0] // patch, size[1] // patch)
        # Ours begins with the patches.
        tables = [
            np.roll(t, latents, axis=0) for t in bound.encoder.positions.tables(grid, latents)
        ]
        same(tables[0], "rope_cos")
        same(tables[1], "rope_sin")
        same(bound.encoder(images), "encoder")

        z = jax.jit(lambda p, x, m=model: m.apply({"params": p}, x, method="features"))(
            params, images
        )
        same(z, "bit_logits")
        same(bits.code_loss(jax.nn.sigmoid(z)), "code_loss")
        ours, official = bound.quantizer.encode(z), golden.out(prefix + "bits")
        clear = np.abs(z) > close["atol"]
        np.testing.assert_array_equal(np.asarray(ours)[clear], official[clear])
        stored = jnp.asarray(official, jnp.int32)
        same(bound.quantizer.decode(stored), "z_q")
        same(nchw(bound.decode(stored)), "recon")
        if clear.all():
            same(nchw(jax.jit(model.apply)({"params": params}, images)["recon"]), "recon")

    # The straight-through gradient, at the scaled run's logits and bits.
    logits = jnp.asarray(golden.out("scaled_bit_logits"))
    cotangent = jnp.asarray(golden.input("st_cotangent"))
    gradient = jax.grad(lambda z: jnp.sum(bound.quantizer(z).values * cotangent))(logits)
    np.testing.assert_allclose(gradient, golden.out("st_grad_logits"), **close)


def autoregressive(golden: Golden) -> None:
    close, meta = golden.meta["tolerance"], golden.meta
    generator = generator_from_config(golden.config, golden.input("text_mask").shape[1])
    example = generator.example_codes(1), generator.conditioner.example(1)
    like = jax.eval_shape(lambda: generator.init(jax.random.key(0), *example))["params"]
    params = import_params(rows(generator), like, golden, UNUSED)
    codes, cond = jnp.asarray(golden.input("bits"), jnp.int32), condition(golden)
    logits = generator.apply({"params": params}, codes, cond)
    np.testing.assert_allclose(logits, golden.out("logits"), **close)
    loss = generator.head.nll(logits, codes).mean() / generator.variables_per_position
    np.testing.assert_allclose(loss, golden.out("loss"), **close)
    np.testing.assert_allclose(bits.accuracy(logits, codes), golden.out("bit_accuracy"), **close)
    half = len(codes) // 2
    guided = guide(logits[:half], logits[half:], 1 + meta["guidance_scale"]) / meta["temperature"]
    np.testing.assert_allclose(jax.nn.sigmoid(guided[:, -1:]), golden.out("cfg_prob_last"), **close)
    greedy, kept = generate(
        generator,
        decoding_params(params),
        cond,
        jax.random.key(0),
        sampling=Sampling(filters=Filters(temperature=0)),
        return_out=True,
    )
    full = generator.apply({"params": params}, greedy, cond)
    np.testing.assert_allclose(kept, full, atol=1e-4)
    np.testing.assert_array_equal(greedy, full > 0)


def diffusion(golden: Golden) -> None:
    close, meta, config = golden.meta["tolerance"], golden.meta, golden.config
    width = config["attention_head_dim"] * config["num_attention_heads"]
    noisy, clean, t = (jnp.asarray(golden.input(name)) for name in ("xt", "x0", "t"))
    cond = condition(golden)
    model = BitDiffusion(
        grid=(config["num_img_tkns"],),
        bits=config["in_channels"],
        conditioner=LayerText(
            width,
            layers=config["num_layers"],
            context_slots=cond["text_mask"].shape[1],
            text_width=config["text_cond_dim"],
            num_slots=0,
        ),
        width=width,
        depth=config["num_layers"],
        heads=config["num_attention_heads"],
        hidden=4 * width,
    )
    like = jax.eval_shape(lambda: model.init(jax.random.key(0), noisy, t, cond))["params"]
    params = import_params(diffusion_rows(model), like, golden)
    np.testing.assert_allclose(
        noisy_probability(clean, t[:, None, None]), golden.out("p_xt"), **close
    )
    flip = model.apply({"params": params}, noisy, t, cond)
    np.testing.assert_allclose(flip, golden.out("flip_logits"), **close)
    np.testing.assert_allclose(bits.unflip(flip, noisy), golden.out("x0_logits"), **close)
    loss = denoising_nll(flip, noisy, clean).mean()
    np.testing.assert_allclose(loss, golden.out("loss"), **close)

    steps, index = meta["num_sampling_steps"], meta["sample_step_index"]
    when = times(steps, meta["rho"])
    np.testing.assert_allclose(when, golden.out("timesteps"), **close)
    z = jnp.asarray(golden.input("sample_z"))
    both = model.apply(
        {"params": params}, jnp.concatenate([z, z]), jnp.full(2 * len(z), when[index]), cond
    )
    guided = guide(both[: len(z)], both[len(z) :], 1 + meta["guidance_scale"])
    p0 = clean_probability(guided, z, meta["temperature"])
    np.testing.assert_allclose(p0, golden.out("sample_x0_prob"), **close)
    for protocol, posterior in ((1, False), (2, True)):
        ours = next_probability(p0, z, when[index], when[index + 1], posterior)
        np.testing.assert_allclose(ours, golden.out(f"sample_protocol{protocol}_prob"), **close)


CASES = {"instella_bae": tokenizer, "instella_ar": autoregressive, "instella_diff": diffusion}
