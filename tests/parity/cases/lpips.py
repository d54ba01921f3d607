"""LPIPS: the distance, its five terms, features and the gradient by the second image."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np

from imgen.interop import lpips as interop
from imgen.interop.table import to_official
from imgen.tokenizers.losses.lpips import abstract_params, features, lpips, lpips_per_layer
from tests.parity.compare import assert_close, nchw, nhwc
from tests.parity.golden import Golden


def lpips_case(g: Golden) -> None:
    widths, tolerance = tuple(g.config["widths"]), g.meta["tolerance"]
    state = g.params() or _drawn_weights(widths, g.meta["seed"])
    params = interop.convert(state, widths)
    back = to_official(interop.rows(), params)
    assert all(np.array_equal(back[k], state[k]) for k in back)

    first, second = nhwc(g.input("first")), nhwc(g.input("second"))
    assert_close(lpips(params, first, second), g.out("lpips"), tolerance["lpips"])
    assert_close(lpips_per_layer(params, first, second), g.out("per_layer"), tolerance["lpips"])
    grad = jax.jit(jax.grad(lambda x: jnp.mean(lpips(params, first, x))))(second)
    assert_close(nchw(grad), g.out("grad_second"), tolerance["grad"])

    for k, activation in enumerate(features(params, first)):
        means = jnp.mean(jnp.abs(activation), axis=(1, 2, 3))
        assert_close(means, g.out(f"feat{k}_mean_abs"), tolerance["lpips"])
        if g.has(f"out/feat{k}_first"):
            # Absolute part: a rectified activation may be 0 on one side and 1e-7 on the other.
            assert_close(nchw(activation), g.out(f"feat{k}_first"), "rtol 1e-3 atol 1e-5")


def _drawn_weights(widths: tuple[int, ...], seed: int) -> dict[str, np.ndarray]:
    """The weights that the golden file's `weight_rule` describes."""
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), abstract_params(widths))
    state = {}
    for key, like in to_official(interop.rows(), zeros).items():
        rs = np.random.RandomState((seed + zlib.crc32(key.encode())) % 2**32)
        r = rs.standard_normal(like.shape).astype(np.float32)
        if key.startswith("lin"):
            state[key] = np.abs(r) * np.float32(0.1)
        elif key.endswith("bias"):
            state[key] = r * np.float32(0.05)
        else:
            state[key] = r * np.float32(np.sqrt(2 / (like.shape[1] * 9)))
    return state


CASES = {"lpips": lpips_case}
