"""A generator that starts from another's parameters: Token-Shuffle's curriculum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgen.errors import UserError
from imgen.generators import make_generator
from imgen.latents import LatentSpec
from imgen.parallel.mesh import make_mesh
from imgen.params import paths
from imgen.params.fields import differences
from imgen.tokenizers.titok import published
from imgen.tokenizers.vq import vq
from imgen.training.generator_task import SHARDING_RULES, GeneratorTask
from imgen.training.state import abstract_state, init_state
from imgen.training.warm_start import check_warm_start


def make_task(grid, window, trained=None, width=16) -> GeneratorTask:
    generator = make_generator(
        LatentSpec("index", grid, 11), plan="token_shuffle", plan_options={}, window=window,
        conditioning={"name": "class", "num_classes": 3}, width=width, depth=1, heads=2, hidden=16,
    )  # fmt: skip
    return GeneratorTask(
        generator, None, None, {"learning_rate": 1e-3}, 10, ema_decay=0.9, trained=trained
    )


def start(task: GeneratorTask) -> dict:
    batch, mesh = {"label": jnp.zeros(8, jnp.int32)}, make_mesh(2, 2, 2)
    with jax.set_mesh(mesh):
        return init_state(task, 0, batch, abstract_state(task, batch, SHARDING_RULES, mesh))


def test_shared_weights_are_taken_and_the_windows_layers_start_fresh():
    first = paths.flatten(jax.device_get(start(make_task((4, 4), 1))["params"]))
    trained = {path: value + 1.0 for path, value in first.items()}
    task = make_task((8, 8), 2, trained)
    state, untouched = start(task), start(make_task((8, 8), 2))
    check_warm_start(state["params"], trained, "RUN", "init.generator")
    ours, fresh = paths.flatten(state["params"]), paths.flatten(untouched["params"])
    new = {path for path in ours if path not in trained}
    assert new and all(path.startswith(("fuse/", "split_0/")) for path in new)
    for path, value in ours.items():
        np.testing.assert_array_equal(value, fresh[path] if path in new else trained[path])
        assert value.sharding == fresh[path].sharding
    for path, value in paths.flatten(state["ema"]).items():
        np.testing.assert_array_equal(value, ours[path])


def test_another_width_or_an_unrelated_model_is_refused():
    params = start(make_task((4, 4), 1))["params"]
    wider = paths.flatten(jax.device_get(start(make_task((4, 4), 1, width=32))["params"]))
    with pytest.raises(UserError, match="init.generator: .* has shape .* in RUN .* here"):
        check_warm_start(params, wider, "RUN", "init.generator")
    with pytest.raises(UserError, match="shares no parameter"):
        check_warm_start(params, {"other": np.zeros(1)}, "RUN", "init.generator")


def test_what_no_shape_tells_is_compared():
    one, other = published("titok_s128"), published("titok_s128", legacy=False, dtype=jnp.bfloat16)
    assert differences(one, other) == ["legacy True, not False"]
    assert differences(vq(), vq(dropout=0.1, dtype=jnp.bfloat16)) == []
    assert "groups" in differences(vq(), vq(groups=16))[0]
