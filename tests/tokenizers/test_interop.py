import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from imgen.errors import UserError
from imgen.interop import llamagen_vq, lpips, patchgan
from imgen.interop.table import LINEAR, Row, Transform, from_official, to_official
from imgen.tokenizers.losses.discriminators import PatchGAN
from imgen.tokenizers.losses.lpips import VGG16, abstract_params
from imgen.tokenizers.vq import vq


def filled(shapes):
    """A tree of distinct numbers in these shapes."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: rng.standard_normal(s.shape).astype(np.float32), shapes)


def vq_table():
    model = vq(ch=8, ch_mult=(1, 2, 2), num_res_blocks=1, z_channels=8, groups=4, codebook_size=16)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    return llamagen_vq.rows(3), shapes


def patchgan_table():
    model = PatchGAN(ndf=4, n_layers=2)
    stats = model.init_stats()
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)), stats)
    return patchgan.rows(2), {"params": params["params"], "stats": stats}


def lpips_table():
    return lpips.rows(), abstract_params((4, 4, 6, 6, 8))


@pytest.mark.parametrize("table", [vq_table, patchgan_table, lpips_table])
def test_round_trip(table):
    rows, shapes = table()
    tree = filled(shapes)
    state = to_official(rows, tree)
    assert len(state) == len(jax.tree.leaves(tree))
    back = from_official(rows, state, shapes)
    jax.tree.map(np.testing.assert_array_equal, back, tree)


def test_missing_unknown_and_misshapen_keys_are_named():
    rows, shapes = vq_table()
    state = to_official(rows, filled(shapes))
    lacking = {k: v for k, v in state.items() if k != "encoder.mid.1.q.weight"}
    with pytest.raises(UserError, match=r"lacks encoder\.mid\.1\.q\.weight"):
        from_official(rows, lacking, shapes)
    with pytest.raises(UserError, match=r"no place for: encoder\.extra"):
        from_official(rows, {**state, "encoder.extra": np.zeros(1)}, shapes)
    wrong = {**state, "quantize.embedding.weight": np.zeros((17, 8))}
    with pytest.raises(UserError, match=r"quantize\.embedding\.weight.*\(17, 8\).*\(16, 8\)"):
        from_official(rows, wrong, shapes)
    used = {**state, "quantize.codebook_used": np.zeros(65536)}
    from_official(rows, used, shapes, llamagen_vq.IGNORED)


def test_one_row_may_stack_layers_and_split_tensors():
    qkv = Transform(
        lambda w: tuple(part.T for part in np.split(w, [4, 6])),
        lambda q, k, v: np.concatenate([q.T, k.T, v.T]),
    )
    rows = [
        Row("layers.{i}.wqkv", ("blocks/q", "blocks/k", "blocks/v"), qkv),
        Row("layers.{i}.wo", "blocks/out", LINEAR),
    ]
    state = {f"layers.{i}.wqkv": np.random.rand(8, 3) for i in range(11)}
    state |= {f"layers.{i}.wo": np.random.rand(3, 4) for i in range(11)}
    shapes = {"q": (11, 3, 4), "k": (11, 3, 2), "v": (11, 3, 2), "out": (11, 4, 3)}
    like = {"blocks": {k: np.zeros(shape) for k, shape in shapes.items()}}
    tree = from_official(rows, state, like)
    np.testing.assert_array_equal(tree["blocks"]["k"][10], state["layers.10.wqkv"][4:6].T)
    back = to_official(rows, tree)
    assert back.keys() == state.keys()
    assert all(np.array_equal(back[k], state[k]) for k in state)


def test_lpips_reads_torchvisions_names_and_refuses_other_files(tmp_path):
    shapes = abstract_params((4, 4, 6, 6, 8))
    state = to_official(lpips.rows(), filled(shapes))
    renamed = dict(state)
    for k, slice_ in enumerate(VGG16.slices):
        for i in slice_:
            for kind in ("weight", "bias"):
                renamed[f"features.{i}.{kind}"] = renamed.pop(f"net.slice{k + 1}.{i}.{kind}")
    widths = (4, 4, 6, 6, 8)
    jax.tree.map(
        np.testing.assert_array_equal, lpips.convert(renamed, widths), lpips.convert(state, widths)
    )

    heads_only = {k: v for k, v in state.items() if k.startswith("lin")}
    save_file(heads_only, tmp_path / "heads.safetensors")
    with pytest.raises(UserError, match=r"lacks net\.slice1\.0"):
        lpips.load(tmp_path / "heads.safetensors")
    (tmp_path / "bad.npz").write_bytes(b"not a zip")
    for name, message in (
        ("bad.npz", "not a readable npz"),
        ("gone.npz", "no such"),
        ("x.pth", "only"),
    ):
        with pytest.raises(UserError, match=message):
            lpips.load(tmp_path / name)
