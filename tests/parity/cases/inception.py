"""FID's Inception: both resizes, every stage, and the features of both dialects."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np

from imgen.evaluation.networks.inception import Inception
from imgen.evaluation.networks.inception_input import DIALECTS, resize
from imgen.interop.inception import SYSTEM
from tests.parity.golden import Golden

TOLERANCE = 2e-4  # of the largest entry
STRIDE = 13  # of the resized images that the file keeps
ADM, PYTORCH_FID = DIALECTS["adm"], DIALECTS["pytorch_fid"]


def inception_fid(g: Golden) -> None:
    state = _drawn_weights(g)
    params = SYSTEM.to_ours(state)
    back = SYSTEM.to_official(params)
    assert back.keys() == state.keys()
    assert all(np.array_equal(back[key], value) for key, value in state.items())

    # All images in both dialects go through the network at once: it is compiled a single time.
    inputs, wanted = [], []
    for case in g.meta["cases"]:
        i = case["index"]
        images = g.input(f"images_{i}")
        assert list(images.shape[1:3]) == case["size"]
        for dialect, name in ((ADM, "resized_tf1"), (PYTORCH_FID, "resized_halfpixel")):
            resized = resize(jnp.asarray(images), dialect)
            _close(resized[:, ::STRIDE, ::STRIDE], g.out(f"{name}_{i}"), f"{name}_{i}")
            inputs.append(dialect.scale(resized))
            wanted += [(dialect, i)] * len(images)
    found = _features(params, jnp.concatenate(inputs))
    for i in (case["index"] for case in g.meta["cases"]):
        adm, torch = (
            {
                name: value[np.array([one == (dialect, i) for one in wanted])]
                for name, value in found.items()
            }
            for dialect in (ADM, PYTORCH_FID)
        )
        for name in sorted(name for name in g.outputs() if name.endswith(f"_{i}")):
            key = name.removesuffix(f"_{i}")
            if key == "pytorch_fid_pool3":
                _close(torch["pool3"], g.out(name), name)
            elif not key.startswith("resized"):
                _close(adm[key], g.out(name), name)


@jax.jit
def _features(params, pixels: jax.Array) -> dict[str, jax.Array]:
    """Under the names of the file."""
    found = Inception().apply({"params": params}, pixels)
    means = {f"mean/{name}": x.mean(axis=(1, 2)) for name, x in found["stages"].items()}
    return means | {
        "spatial": found["spatial"],
        "pool3": found["pool3"],
        "logits_unbiased": found["logits"],
        "probs_unbiased": jax.nn.softmax(found["logits"]),
        "logits": found["biased_logits"],
    }


def _close(actual, expected: np.ndarray, name: str) -> None:
    within = TOLERANCE * np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=within, err_msg=name)


def _drawn_weights(g: Golden) -> dict[str, np.ndarray]:
    """The weights that the file's `recipe` describes, held against its hash."""
    state, digest = {}, hashlib.sha256()
    for i, (key, shape) in enumerate(sorted(g.meta["shapes"].items())):
        rng = np.random.RandomState(g.meta["seed"] + i)
        is_weight = key.endswith(".weight")
        if key.endswith(".running_var") or (is_weight and len(shape) == 1):
            value = 0.5 + rng.random_sample(shape)
        elif is_weight:
            gain = 2 if len(shape) == 4 else 1
            value = rng.standard_normal(shape) * np.sqrt(gain / np.prod(shape[1:]))
        else:
            value = 0.1 * rng.standard_normal(shape)
        state[key] = value.astype(np.float32)
        digest.update(state[key])
    assert digest.hexdigest() == g.meta["params_sha256_over_sorted_float32_bytes"]
    return state


CASES = {"inception_fid": inception_fid}
