import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgen.errors import UserError
from imgen.parallel.mesh import make_mesh, shardings
from imgen.training.checkpoint import CHECKSUMS, Checkpointer


def state_of(step):
    params = {"kernel": jnp.full((64, 64), step, jnp.float32), "half": jnp.ones(3, jnp.bfloat16)}
    return {"step": jnp.int32(step), "params": params, "ema": params, "none": {}}


def abstract(state):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def save_three(directory, **kwargs):
    with Checkpointer(directory, keep=3, **kwargs) as checkpointer:
        for step in (10, 20, 30):
            checkpointer.save(step, state_of(step), {"note": step})
    return abstract(state_of(0))


def test_state_and_meta_come_back_and_old_ones_go(tmp_path):
    with Checkpointer(tmp_path, keep=2, keep_every=40) as checkpointer:
        assert checkpointer.restore_latest(abstract(state_of(0))) is None
        for step in (40, 50, 60, 70):
            checkpointer.save(step, state_of(step), {"note": step})
        state, meta = checkpointer.restore_latest(abstract(state_of(0)))
    assert meta == {"note": 70, "step": 70}
    assert jax.tree.structure(state) == jax.tree.structure(state_of(70))
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(state_of(70)), strict=True):
        assert a.dtype == b.dtype and np.array_equal(a, b)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["40", "60", "70"]


def largest_file(folder):
    return max(
        (p for p in folder.glob("params/**/*") if p.is_file()), key=lambda p: p.stat().st_size
    )


def flip_a_byte(folder):
    path = largest_file(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "a byte flipped": flip_a_byte,
    "a file cut short": lambda d: largest_file(d).write_bytes(largest_file(d).read_bytes()[:-1]),
    "a file emptied": lambda d: largest_file(d).write_bytes(b""),
    "a file missing": lambda d: largest_file(d).unlink(),
    "an item missing": lambda d: shutil.rmtree(d / "ema"),
    "meta cut short": lambda d: (d / "meta/metadata").write_text('{"note": 3'),
    "checksums missing": lambda d: (d / CHECKSUMS).unlink(),
    "everything missing": lambda d: [shutil.rmtree(d), d.mkdir()],
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda d: d.replace(" ", "_"))
def test_damage_falls_back_with_a_warning_and_deletes_nothing(tmp_path, caplog, damage):
    shapes = save_three(tmp_path)
    DAMAGE[damage](tmp_path / "30")
    left = sorted(p.relative_to(tmp_path / "30") for p in (tmp_path / "30").rglob("*"))
    with Checkpointer(tmp_path, keep=3) as checkpointer:
        assert checkpointer.latest_step() == 20
        state, meta = checkpointer.restore_latest(shapes)
        assert meta["note"] == 20 and np.all(np.asarray(state["params"]["kernel"]) == 20)
        assert f"{tmp_path / '30'} is damaged" in caplog.text
        checkpointer.save(30, state_of(31), {"note": 31})
        assert checkpointer.restore_latest(shapes)[1]["note"] == 31
    aside = tmp_path / "damaged-30"
    assert sorted(p.relative_to(aside) for p in aside.rglob("*")) == left
    with Checkpointer(tmp_path) as checkpointer:  # what was set aside does not disturb
        assert checkpointer.latest_step() == 30


def test_damaged_ones_do_not_push_out_good_ones(tmp_path):
    shapes = save_three(tmp_path)
    for step in ("20", "30"):
        flip_a_byte(tmp_path / step)
    with Checkpointer(tmp_path, keep=2) as checkpointer:
        assert checkpointer.restore_latest(shapes)[1]["note"] == 10
        checkpointer.save(15, state_of(15), {"note": 15})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["10", "15", "damaged-20", "damaged-30"]


def test_only_damaged_ones_is_an_error_not_a_fresh_start(tmp_path):
    shapes = save_three(tmp_path)
    for step in ("10", "20", "30"):
        flip_a_byte(tmp_path / step)
    with Checkpointer(tmp_path) as checkpointer, pytest.raises(UserError, match="is damaged"):
        checkpointer.restore_latest(shapes)


def test_half_written_folder_is_ignored(tmp_path):
    shapes = save_three(tmp_path)
    shutil.copytree(tmp_path / "30", tmp_path / "40.orbax-checkpoint-tmp")
    with Checkpointer(tmp_path, read_only=True) as checkpointer:
        assert checkpointer.restore_latest(shapes)[1]["note"] == 30
    assert (tmp_path / "40.orbax-checkpoint-tmp").exists()  # a reader cleans nothing up
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(40, state_of(40), {"note": 40})
        assert checkpointer.restore_latest(shapes)[1]["note"] == 40


def test_one_item_alone_without_knowing_the_rest(tmp_path):
    save_three(tmp_path)
    ema = {"ema": jax.eval_shape(lambda: state_of(0)["ema"])}
    with Checkpointer(tmp_path, read_only=True) as checkpointer:
        assert float(checkpointer.restore_items(ema)["ema"]["kernel"][0, 0]) == 30
        assert float(checkpointer.restore_items(ema, step=10)["ema"]["kernel"][0, 0]) == 10
        with pytest.raises(UserError, match="no readable checkpoint of step 11"):
            checkpointer.restore_items(ema, step=11)
        with pytest.raises(UserError, match="has no 'codes', which this config asks for"):
            checkpointer.restore_items({"codes": jax.ShapeDtypeStruct((3,), jnp.int32)})


def test_any_mesh_reads_what_another_wrote(tmp_path):
    rules = [("kernel", ("fsdp", "tensor")), ("half", ())]
    wanted = {}
    for name, sizes in {"a": (2, 2, 2), "b": (1, 8, 1)}.items():
        placed = shardings(state_of(0), rules, make_mesh(*sizes))
        wanted[name] = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state_of(0), placed
        )
    state = jax.tree.map(lambda x, a: jax.device_put(x, a.sharding), state_of(10), wanted["a"])
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(10, state, {})
        moved, _ = checkpointer.restore_latest(wanted["b"])
    kernel = moved["params"]["kernel"]
    assert kernel.sharding == wanted["b"]["params"]["kernel"].sharding
    assert np.array_equal(kernel, state["params"]["kernel"])


def test_other_shapes_and_names_are_told_apart_from_damage(tmp_path):
    save_three(tmp_path)
    other = state_of(0)
    other["params"] = {"kernel": jnp.zeros((64, 32)), "half": other["params"]["half"]}
    with Checkpointer(tmp_path) as checkpointer:
        with pytest.raises(UserError, match=r"'params/kernel' has shape \(64, 64\).*\(64, 32\)"):
            checkpointer.restore_latest(abstract(other))
        other["params"] = {"weight": jnp.zeros((64, 64)), "half": jnp.zeros(3)}
        with pytest.raises(UserError, match="has 'params/kernel', which this config has not"):
            checkpointer.restore_latest(abstract(other))


def test_reading_where_nothing_is_says_so(tmp_path):
    with pytest.raises(UserError, match="no checkpoints in"):
        Checkpointer(tmp_path / "nowhere", read_only=True)
