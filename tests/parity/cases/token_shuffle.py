"""Token-Shuffle: the order of windows, fusing and splitting, losses and guidance."""

import jax
import jax.numpy as jnp
import numpy as np

from imgen.decoding.guidance import Guidance, guidance_weights
from imgen.generators import make_generator
from imgen.generators.windows import Fuse, Split, from_windows, to_windows
from imgen.latents import LatentSpec
from tests.parity.golden import Golden


def block(params: dict, name: str) -> dict:
    def linear(i):
        return {"kernel": params[f"{name}/w{i}"], "bias": params[f"{name}/b{i}"]}

    return {"norm": {"scale": params[f"{name}/norm"]}, "mlp": {"up": linear(1), "down": linear(2)}}


def token_shuffle(golden: Golden) -> None:
    config, params = golden.config, golden.params()
    close = {k: golden.meta["tolerance"][k] for k in ("atol", "rtol")}
    grid, window, width = (config["H"], config["W"]), config["window"], config["dim"]
    coarse = (grid[0] // window, grid[1] // window)
    numbers = jnp.arange(grid[0] * grid[1]).reshape(1, *grid)
    order = to_windows(numbers, window)[0]
    np.testing.assert_array_equal(order, golden.out("order"))
    np.testing.assert_array_equal(np.argsort(order.reshape(-1)), golden.out("inverse_order"))
    plain = jnp.asarray(golden.input("plain"))
    shuffled = to_windows(plain.reshape(-1, *grid, plain.shape[-1]), window)
    merged = shuffled.reshape(*shuffled.shape[:2], -1)
    np.testing.assert_array_equal(merged, golden.out("shuffled_plain"))
    back = from_windows(shuffled, coarse, window)
    np.testing.assert_array_equal(back.reshape(plain.shape), plain)

    codes = to_windows(jnp.asarray(golden.input("codes")), window)
    np.testing.assert_array_equal(codes, golden.out("fused_codes"))
    blocks = range(config["num_blocks"])
    layers = dict(blocks=len(blocks), hidden=config["mlp_hidden"])
    compress = {"kernel": params["compress/w"], "bias": params["compress/b"]}
    expand = {"kernel": params["expand/w"], "bias": params["expand/b"]}
    fuse = {"compress": compress} | {f"block_{i}": block(params, f"in_block{i}") for i in blocks}
    split = {"expand": expand} | {f"block_{i}": block(params, f"out_block{i}") for i in blocks}
    embedded = params["embed"][codes]
    bare = Fuse(**(layers | {"blocks": 0})).apply({"params": {"compress": compress}}, embedded)
    np.testing.assert_allclose(bare, golden.out("fused_before_blocks"), **close)
    compressed = from_windows(bare.reshape(*codes.shape, -1), coarse, window)
    np.testing.assert_allclose(
        compressed.reshape(golden.out("compressed").shape), golden.out("compressed"), **close
    )
    fused = Fuse(**layers).apply({"params": fuse}, embedded)
    np.testing.assert_allclose(fused, golden.out("fused_inputs"), **close)

    vectors = Split(window, **layers).apply({"params": split}, jnp.asarray(golden.input("hidden")))
    logits = vectors @ params["head/w"] + params["head/b"]  # [B, K, m, V]
    np.testing.assert_allclose(logits, golden.out("fused_logits"), **close)
    in_raster = from_windows(logits, coarse, window).reshape(golden.out("logits").shape)
    np.testing.assert_allclose(in_raster, golden.out("logits"), **close)

    generator = make_generator(
        LatentSpec("index", grid, config["vocab"]),
        plan="token_shuffle",
        plan_options={},
        conditioning={"name": "class", "num_classes": 1},
        window=window,
        width=width,
        depth=1,
        heads=1,
    )
    nll = generator.head.nll(logits, codes)  # [B, K]
    np.testing.assert_allclose(nll, golden.out("ce_per_window"), **close)
    np.testing.assert_allclose(
        nll.mean() / generator.variables_per_position, golden.out("ce_mean"), **close
    )
    z_loss = config["z_loss_coef"] * jnp.mean(generator.head.log_normalizer(logits))
    np.testing.assert_allclose(z_loss, golden.out("z_loss"), **close)
    for official, schedule in (
        ("half_linear", "half_linear"),
        ("linear", "linear"),
        ("constant", "constant"),
    ):
        weights = guidance_weights(Guidance(config["cfg_scale"], schedule), generator.plan)
        np.testing.assert_allclose(weights, golden.out(f"cfg_{official}"), **close)
    assert jax.tree.structure(fuse) == jax.tree.structure(
        jax.eval_shape(
            lambda: Fuse(**layers).init(jax.random.key(0), jnp.asarray(embedded))["params"]
        )
    )


CASES = {"token_shuffle": token_shuffle}
