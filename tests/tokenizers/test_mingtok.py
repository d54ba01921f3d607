import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgen import config
from imgen.errors import UserError
from imgen.interop import mingtok as interop
from imgen.params.paths import flatten
from imgen.runs.experiment import Experiment
from imgen.tokenizers import TOKENIZERS
from imgen.tokenizers.mingtok import MingTok
from imgen.tokenizers.mingtok_layers import random_mask
from imgen.training.latent_care import put
from tests.tokenizers.causal import token_by_token
from tests.tokenizers.random_params import compiled, random_params

BODY = {
    "image_size": 16,
    "patch": 4,
    "pixel_patch": 2,
    "channels": 4,
    "encoder_width": 16,
    "encoder_depth": 2,
    "semantic_width": 24,
    "semantic_depth": 2,
    "pixel_width": 16,
    "pixel_depth": 1,
    "head_dim": 8,
}
TINY = MingTok(**BODY)
IMAGES = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3), minval=-1.0)
TARGET = {"features": 7, "weight": 1.0}


def run(model, method, variables, *inputs):
    return compiled(model, method)(variables, *inputs)


def start(model):
    """Random parameters, with a shift and a scale of the latents that matter."""
    variables = random_params(model, IMAGES)
    variables["params"]["quantizer"] = {"shift": np.float32(0.5), "scale": np.float32(0.3)}
    return variables


def test_stored_latents_decode_to_the_clipped_reconstruction():
    """Though in training the class token goes through the semantic decoder as well."""
    variables = start(TINY)
    variables["params"]["pixel_decoder"]["head"]["kernel"] *= 3.0
    out = run(TINY, None, variables, IMAGES)
    latents = run(TINY, "encode", variables, IMAGES, jax.random.key(1))
    assert latents.shape == (2, *TINY.spec(16).grid, TINY.spec(16).size) == (2, 4, 4, 4)
    np.testing.assert_allclose(latents, out["latents"], atol=1e-5)
    recon = run(TINY, "decode", variables, latents)
    assert np.abs(out["recon"]).max() > 1.2 and out["recon"].dtype == jnp.float32
    np.testing.assert_allclose(recon, np.clip(out["recon"], -1, 1), atol=1e-4)
    np.testing.assert_allclose(
        run(TINY, "project", variables, out["hidden"]), out["recon"], atol=1e-4
    )


def test_a_semantic_feature_depends_on_no_later_latent():
    variables = start(TINY)
    latents = jax.random.normal(jax.random.key(1), (2, 4, 4, 4))
    semantic = functools.partial(run, TINY, "semantic", variables)
    before = semantic(latents).reshape(2, 16, -1)
    for number in (0, 6, 15):
        moved = latents.at[:, number // 4, number % 4].add(1.0)
        change = np.abs(semantic(moved).reshape(2, 16, -1) - before).max((0, 2))
        assert not change[:number].any() and (change[number:] > 1e-6).all()


def test_the_encoder_and_the_pixel_decoder_see_everything():
    variables = start(TINY)
    features = functools.partial(run, TINY, "features", variables)
    change = np.abs(features(IMAGES.at[:, -1, -1].add(1.0)) - features(IMAGES))
    assert change.shape == (2, 17, 4) and (change.max((0, 2)) > 1e-6).all()
    variables["params"]["pixel_decoder"]["head"]["kernel"] *= 0.1  # nothing is clipped
    draw = jax.jit(functools.partial(TINY.apply, method="draw"))
    semantic = jax.random.normal(jax.random.key(1), (2, 4, 4, 24))
    moved = semantic.at[:, -1, -1].add(1.0)
    change = np.abs(draw(variables, moved) - draw(variables, semantic))
    assert (change.max((0, 3)) > 1e-6).all()


def test_semantic_features_come_token_by_token():
    variables = start(TINY)
    latents = jax.random.normal(jax.random.key(1), (2, 4, 4, 4))
    whole = run(TINY, "semantic", variables, latents).reshape(2, 16, -1)
    rows = latents.reshape(2, 16, 4)
    singly = jax.jit(functools.partial(token_by_token, TINY))(variables, rows)
    np.testing.assert_allclose(singly, whole, atol=1e-5)


def test_masks_have_their_share_and_depend_on_the_image_only():
    masks = random_mask(jax.random.key(3), 5, 16, 0.4)
    assert masks.sum(-1).tolist() == [6] * 5
    assert len({mask.tobytes() for mask in np.asarray(masks)}) == 5
    np.testing.assert_array_equal(masks[:2], random_mask(jax.random.key(3), 2, 16, 0.4))


def test_what_is_masked_in_training_is_not_seen():
    model, key = TINY.clone(mask_ratio=0.5), jax.random.key(3)
    variables = start(model)
    masked = np.asarray(random_mask(key, 2, 16, 0.5)).reshape(2, 4, 4)
    masked = masked.repeat(4, 1).repeat(4, 2)[..., None]
    train = jax.jit(lambda images: model.apply(variables, images, key)["recon"])
    recon = train(IMAGES)
    np.testing.assert_array_equal(train(jnp.where(masked, 0.7, IMAGES)), recon)
    assert np.abs(train(jnp.where(masked, IMAGES, 0.7)) - recon).max() > 1e-3

    del variables["params"]["low_level_encoder"]["mask_token"]
    encode = functools.partial(run, TINY, "encode", variables)
    np.testing.assert_array_equal(encode(IMAGES, key), encode(IMAGES))


def test_the_teacher_is_optional_and_its_shape_is_checked():
    assert "semantic_target" not in start(TINY)["params"]
    model, key = MingTok(**BODY, semantic_target=TARGET), jax.random.key(0)
    variables = start(model)

    def losses(model, *inputs):
        return jax.eval_shape(lambda: model.apply(variables, IMAGES, *inputs)["losses"])

    patches, with_class = (jnp.ones((2, rows, 7)) for rows in (16, 17))
    assert losses(model) == {}
    assert set(losses(model, key, patches)) == {"semantic_target"}
    assert set(losses(model.clone(class_target=True), key, with_class)) == {"semantic_target"}
    with pytest.raises(UserError, match=r"no teacher features \[B, 16, 7\]"):
        losses(model, key)
    with pytest.raises(UserError, match=r"takes 16 teacher features.*\(17, 7\)"):
        losses(model, key, with_class)


def test_the_pixels_teach_all_stages_and_the_teacher_the_first_two():
    """By derivatives along a step of each parameter alone, which compile faster than gradients."""
    model = MingTok(**BODY, semantic_target=TARGET, class_target=True)
    teacher = jax.random.normal(jax.random.key(2), (2, 17, 7))
    params = start(model)["params"]

    def losses(params, teacher):
        out = model.apply({"params": params}, IMAGES, jax.random.key(0), teacher)
        return jnp.mean(jnp.abs(out["recon"] - IMAGES)), out["losses"]["semantic_target"]

    @jax.jit
    def along(step, teacher):
        return jax.jvp(lambda p: losses(p, teacher), (params,), (step,))

    reached = {"pixels": set(), "teacher": set()}
    for path, leaf in flatten(params).items():
        zeros = jax.tree.map(np.zeros_like, params)
        step = np.random.default_rng(1).normal(size=leaf.shape).astype(np.float32)
        _, slopes = along(put(zeros, path.split("/"), step), teacher)
        for name, slope in zip(reached, slopes, strict=True):
            if slope != 0:
                reached[name].add(path)

    def below(*stages):
        return {path for path in flatten(params) if path.split("/")[0] in stages}

    common = below("low_level_encoder", "semantic_decoder")
    assert reached["pixels"] == common | below("sem_to_pix", "pixel_decoder")
    assert reached["teacher"] == common | below("semantic_target")
    (_, loss), _ = along(zeros, teacher)
    (_, other_image), _ = along(zeros, teacher.at[:, -1].multiply(-1.0))
    assert 0.5 < loss < 1.5 and abs(other_image - loss) > 1e-4


@pytest.mark.parametrize("name", ["mingtok,smoke", "mingtok_small,teacher,smoke"])
def test_the_recipe_has_its_parts(name):
    """Traced, not run."""
    settings = config.load_config(f"configs/mingtok.py:{name}")
    task = Experiment.build(settings).task("tokenizer")
    batch = {"image": jnp.zeros((2, 32, 32, 3), jnp.uint8), "mask": jnp.ones(2)}
    if "teacher" in name:
        batch["teacher"] = jnp.zeros((2, 16, 1024))

    def steps(key):
        state, metrics = task.train_step(task.init(key, batch), batch, key)
        return metrics, task.eval_step(state, batch)

    metrics, sums = jax.eval_shape(steps, jax.random.key(0))
    assert {"rec_loss", "latent_std"} <= metrics.keys() and "psnr" in sums
    assert ("semantic_target_loss" in metrics) == ("teacher" in name)


def test_official_weights_bring_the_published_mean_and_scale():
    params = start(TINY)["params"]
    state = interop.convert_back(params)
    teachers = {**state, "target_backbone.blocks.0.norm1.weight": np.zeros(3)}
    back = interop.convert(teachers, params)
    quantizer = back.pop("quantizer")
    jax.tree.map(np.testing.assert_array_equal, back, {k: params[k] for k in back})
    z = np.float32([1.46817409, 1.46817409 + 8.09449291])
    np.testing.assert_allclose((z - quantizer["shift"]) * quantizer["scale"], [0, 1], atol=1e-6)
    with pytest.raises(UserError, match=r"no place for: low_level_encoder\.mask_token"):
        interop.convert({**state, "low_level_encoder.mask_token": np.zeros(3)}, params)
    lacking = {key: value for key, value in state.items() if key != "sem_to_pix.bias"}
    with pytest.raises(UserError, match=r"lacks sem_to_pix\.bias"):
        interop.convert(lacking, params)


def count(encoder, semantic, pixels, channels, positions, patch, pixel_patch, finer):
    """Parameters from the layers; each transformer is (width, depth, hidden of its feed-forward)."""

    def blocks(width, depth, hidden, kernels):
        attention = 4 * width**2 + 4 * width
        feed_forward = (kernels * width + kernels - 1) * hidden + width
        return depth * (attention + feed_forward + 4 * width)

    total = blocks(*encoder, 3) + blocks(*semantic, 3) + blocks(*pixels, 2)
    width = encoder[0]
    total += (3 * patch**2 + 1) * width + positions * width + width  # patches, positions, class
    total += 2 * width + (width + 1) * channels
    width, tokens = semantic[0], pixels[0] * finer
    total += (channels + 1) * width + 2 * width + (width + 1) * tokens
    return total + 2 * pixels[0] + (pixels[0] + 1) * 3 * pixel_patch**2 + 2  # shift and scale


@pytest.mark.parametrize(
    "name, size, expected",
    [
        (
            "mingtok",
            512,
            count((768, 12, 2048), (1024, 24, 2736), (1024, 24, 4096), 32, 257, 32, 16, 4),
        ),
        (
            "mingtok_small",
            256,
            count((384, 6, 1024), (512, 8, 1368), (512, 8, 2048), 32, 257, 16, 8, 4),
        ),
    ],
)
def test_sizes_build(name, size, expected):
    model = TOKENIZERS[name]()
    images = jnp.zeros((1, size, size, 3))
    shapes = flatten(jax.eval_shape(model.init, jax.random.key(0), images)["params"])
    assert sum(leaf.size for leaf in shapes.values()) == expected
    assert model.spec(size).grid == (16, 16) and model.spec(size).size == 32


def test_images_need_not_be_square_and_the_finer_grid_not_twice_as_fine():
    model = TINY.clone(image_size=(8, 12), pixel_patch=1)
    images = jnp.zeros((2, 8, 12, 3))
    out, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
    assert out["recon"].shape == images.shape and out["hidden"].shape == (2, 8, 12, 16)
    assert out["latents"].shape == (2, 2, 3, 4) and model.spec((8, 12)).grid == (2, 3)


def test_bfloat16_works_like_float32_on_float32_parameters():
    half = TINY.clone(dtype=jnp.bfloat16, remat=True)
    variables = start(half)
    a, b = (run(model, None, variables, IMAGES) for model in (TINY, half))
    for name in ("latents", "recon"):
        assert b[name].dtype == jnp.float32
        np.testing.assert_allclose(a[name], b[name], atol=0.1)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"patch": 5}, "patch 5 does not divide images of 16x16"),
        ({"pixel_patch": 3}, "pixel_patch 3 does not divide patch 4"),
        ({"semantic_width": 20}, "semantic_width 20 must be a multiple of head_dim 8"),
        ({"channels": 3}, "encoder_width 16 must be a multiple.*channels 3"),
        ({"mask_ratio": 1.0}, r"mask_ratio 1.0 is not in \[0, 1\)"),
    ],
)
def test_settings_that_do_not_fit_are_named(changes, message):
    with pytest.raises(UserError, match=message):
        TINY.clone(**changes).spec(16)


def test_images_of_another_size_are_refused():
    with pytest.raises(UserError, match="16x16, not 32x16.*image_size"):
        TINY.spec((32, 16))
