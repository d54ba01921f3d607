"""Every recipe builds at full size; its smoke variant runs."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgen import config, evaluate, sample, train
from imgen.data.stored import LatentsWriter
from imgen.latents import LatentSpec
from imgen.parallel.mesh import batch_sharding, make_mesh
from imgen.params import paths
from imgen.runs import cli
from imgen.runs.experiment import Experiment
from imgen.runs.run import Run
from imgen.training.state import abstract_state, init_state
from tests.data.tiny import png, write_tfds

CONFIGS = sorted(Path("configs").glob("[a-z]*.py"))


def arguments(path: Path) -> list[str]:
    """The recipes that a config file holds, without their smoke variants."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sizes = getattr(module, "SIZES", ())
    return [f"{path}:{size}" for size in sizes] or [str(path)]


PUBLISHED = {  # millions of parameters of the generator
    "configs/imagenet.py:llamagen_b": 111,
    "configs/imagenet.py:llamagen_l": 343,
    "configs/imagenet.py:llamagen_xl": 775,
    "configs/imagenet.py:llamagen_xxl": 1411,
    "configs/imagenet.py:llamagen_3b": 3097,
    "configs/nar.py:nar_b": 130.6,
    "configs/nar.py:nar_m": 295.5,
    "configs/nar.py:nar_l": 372.5,
    "configs/nar.py:nar_xl": 816.0,
    "configs/nar.py:nar_xxl": 1464,
    "configs/nar.py:nar_xl_text": 819.0,
    "configs/nar.py:nar_video_l": 368.7,
    "configs/nar.py:nar_video_lp": 693.6,
    "configs/par.py:par_l": 343,
    "configs/par.py:par_xl": 775,
    "configs/par.py:par_xxl": 1411,
    "configs/par.py:par_3b": 3097,
    "configs/randar.py:randar_l": 343,
    "configs/randar.py:randar_xl": 775,
    "configs/randar.py:randar_xxl": 1411,
    "configs/elm.py:elm_l": 315.6,
    "configs/elm.py:elm_xl": 741.3,
    "configs/elm.py:elm_xxl": 1390.5,
    "configs/elm.py:elm_2b": 1909.5,
    "configs/xar.py:b": 172.64,
    "configs/xar.py:l": 608.40,
    "configs/xar.py:h": 1186.02,
    "configs/instella.py:instella_ar": 877.2,  # of the published 881.4, 4.2 are never used
    "configs/instella.py:instella_diff": 1292.5,
}


@pytest.mark.parametrize("name", [name for path in CONFIGS for name in arguments(path)])
def test_a_recipe_builds_at_full_size_and_every_parameter_has_its_place(name, tmp_path):
    """Its generator has the published number of parameters, where one is published."""
    settings = config.load_config(name)
    assert config.from_json(config.to_json(settings)) == settings
    if settings.data.image_size is None:  # found from the images
        (tmp_path / "image.png").write_bytes(png(1, size=32))
        settings = config.override(
            settings, [f"data.source.path={tmp_path}", "data.train.split=all"]
        )
    experiment = Experiment.build(settings)
    size = experiment.data.image_size
    for stage in experiment.stages:
        task = experiment.task(stage)
        batch = {"image": jnp.zeros((1, size, size, 3), jnp.uint8)}
        if stage == "generator":
            batch |= task.generator.conditioner.example(1)
        state = abstract_state(task, batch, task.sharding_rules, make_mesh(2, 2, 2))
    if name in PUBLISHED:
        sizes = {path: leaf.size for path, leaf in paths.flatten(state["params"]).items()}
        trained = sum(n for path, n in sizes.items() if not path.endswith("null_features"))
        counted = 1e-4 if name.startswith("configs/xar") else 0.01
        assert trained / 1e6 == pytest.approx(PUBLISHED[name], rel=counted)


def test_every_published_number_of_parameters_is_of_a_recipe():
    assert PUBLISHED.keys() <= {name for path in CONFIGS for name in arguments(path)}


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (["entity=token"], 256),
        (["entity_options.side=4"], 16),
        (["entity=subsample", "entity_options.stride=4"], 16),
        (["entity=scale", "entity_options.shares=(2,1)"], 2),
        (["entity=image"], 1),
    ],
)
def test_xar_takes_any_entity_from_the_command_line(options, count):
    overrides = [f"--config.generator.{option}" for option in options]
    task = Experiment.build(config.load_config("configs/xar.py:b", overrides)).task("generator")
    assert task.generator.entities.count == count


def test_the_video_recipe_trains_on_stored_codes(tmp_path):
    """NAR in three dimensions, on codes whose tokenizer isn't here."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        writer = LatentsWriter(
            tmp_path / "codes" / split, LatentSpec("index", (2, 4, 4), 16), split=split,
            tokenizer_hash="elsewhere", variants=1, num_classes=3,
        )  # fmt: skip
        with writer:
            for number in range(16):
                writer.write(rng.integers(16, size=(1, 2, 4, 4)), number % 3)
    overrides = {
        "data.source.path": f"('{tmp_path / 'codes'}',)", "tokenizer.grid": (2, 4, 4),
        "tokenizer.size": 16, "generator.width": 32, "generator.depth": 1, "generator.heads": 2,
        "generator.dtype": "float32",
        "generator.conditioning.num_classes": 3, "train.generator.steps": 3,
        "train.generator.batch_size": 8, "train.generator.log_every": 1,
    }  # fmt: skip
    argv = [f"{key}={value}" for key, value in overrides.items()]
    rows = smoke("configs/nar.py:nar_video_l", tmp_path / "run", *argv)
    assert rows[0]["loss"] == pytest.approx(np.log(16), rel=0.02)
    assert rows[-1]["step"] == 3 and rows[-1]["val/nats_per_image"] > 0
    assert evaluate.main(["--workdir", str(tmp_path / "run"), "--metrics", "likelihood"]) is None


def smoke(name: str, workdir: Path, *overrides: str) -> list[dict]:
    argv = ["--config", name, "--workdir", str(workdir), *(f"--config.{o}" for o in overrides)]
    assert cli.run(lambda: train.main(argv)) == 0
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("size", ["b", "l", "xl", "xxl", "3b"])
def test_imagenet_builds_shards_and_takes_a_step_on_eight_devices(size):
    """Of the smaller ones, and of the larger ones, which compute their activations anew."""
    settings = config.load_config(f"configs/imagenet.py:llamagen_{size},smoke")
    task, mesh = Experiment.build(settings).task("generator"), make_mesh(2, 2, 2)
    task = dataclasses.replace(task, tokenizer=None)
    batch = {"codes": np.zeros((16, 8, 8), np.int32), "label": np.zeros(16, np.int32)}
    with jax.set_mesh(mesh):
        batch = jax.device_put(batch, batch_sharding(mesh))
        abstract = abstract_state(task, batch, task.sharding_rules, mesh)
        qkv = abstract["params"]["transformer"]["blocks_0"]["attention"]["qkv"]["kernel"]
        assert qkv.sharding.spec == jax.P(None, "fsdp", "tensor", None, None)
        if size not in ("b", "3b"):
            state, metrics = jax.eval_shape(task.train_step, abstract, batch, jax.random.key(0))
            assert jax.tree.map(np.shape, state) == jax.tree.map(np.shape, abstract)
            assert metrics["loss"].shape == ()
            return
        state = init_state(task, 0, batch, abstract)
        shardings = jax.tree.map(lambda x: x.sharding, abstract)
        step = jax.jit(task.train_step, out_shardings=(shardings, None))
        state, metrics = step(state, batch, jax.random.key(0))
    # The output matrix starts at zero.
    assert metrics["loss"] == pytest.approx(np.log(64), rel=1e-3)
    assert metrics["grad_norm"] > 0 and int(state["step"]) == 1


def test_the_whole_imagenet_path_runs_in_its_smoke_variant(tmp_path):
    rows = smoke("configs/imagenet.py:llamagen_b,smoke", tmp_path, "mesh.fsdp=2", "mesh.tensor=2")
    assert [r["step"] for r in rows if r["stage"] == "generator" and "loss" in r] == [1, 2, 3, 4]


def test_xar_trains_evaluates_and_samples_in_its_smoke_variant(tmp_path, capsys):
    run = tmp_path / "run"
    rows = smoke("configs/xar.py:b,smoke", run)
    losses = [row["loss"] for row in rows if row["stage"] == "generator" and "loss" in row]
    assert len(losses) == 4 and np.isfinite(losses).all()
    capsys.readouterr()
    assert cli.run(lambda: evaluate.main(["--workdir", str(run), "--metrics", "error"])) == 0
    found = json.loads(capsys.readouterr().out)["error"]
    last = [row["val/loss"] for row in rows if row["stage"] == "generator" and "val/loss" in row]
    assert found["loss"] == pytest.approx(last[-1], rel=1e-5) and "nats_per_image" not in found
    argv = ["--workdir", str(run), "--out", str(tmp_path / "samples"), "--num", "3"]
    assert cli.run(lambda: sample.main(argv)) == 0
    assert np.load(tmp_path / "samples" / "samples.npz")["arr_0"].shape == (3, 32, 32, 3)
    assert cli.run(lambda: sample.main([*argv, "--temperature", "0.5"])) == 2
    assert "no meaning for xar" in capsys.readouterr().err


def test_vq_trains_with_its_discriminator(tmp_path):
    rows = [
        r
        for r in smoke("configs/vq.py:vq16,smoke", tmp_path, "mesh.data=1", "mesh.fsdp=8")
        if "loss" in r
    ]
    before, after = rows[1], rows[2]  # the discriminator starts at step 3
    assert before["adversarial_loss"] == 0 and before["disc_grad_norm"] == 0
    assert after["adversarial_loss"] != 0 and after["disc_grad_norm"] > 0


@pytest.mark.parametrize(
    "name", ["binary_1d.py:binary_1d", "flextok.py:flextok_d12_d12"]
)  # VQ, MaskGIT's VQGAN and TiTok have tests of their own
def test_a_tokenizers_recipe_trains_in_its_smoke_variant(name, tmp_path):
    # FlexTok's training makes no pictures to judge.
    assert_trained(smoke(f"configs/{name},smoke", tmp_path), adversarial="flextok" not in name)


def assert_trained(rows: list[dict], adversarial: bool) -> None:
    rows = [row for row in rows if "loss" in row]
    assert len(rows) == 4 and np.isfinite([row["loss"] for row in rows]).all()
    if adversarial:  # the discriminator starts at step 3
        assert [row["disc_grad_norm"] > 0 for row in rows] == [False, False, True, True]


def test_titok_trains_in_two_stages_on_the_codes_of_maskgits_vqgan(tmp_path):
    proxy, first, second = (tmp_path / name for name in ("proxy", "first", "second"))
    assert_trained(smoke("configs/vq.py:maskgit_vqgan,smoke", proxy), adversarial=True)
    rows = smoke("configs/titok.py:titok_s128,stage1,smoke", first, f"init.parts.proxy={proxy}")
    assert_trained(rows, adversarial=False)
    assert rows[0]["proxy_loss"] == pytest.approx(np.log(64), rel=0.1)  # hardly trained: 64 codes
    rows = smoke("configs/titok.py:titok_s128,smoke", second, f"init.tokenizer={first}")
    assert_trained(rows, adversarial=True)
    before, after = (paths.flatten(Run(run).tokenizer().params) for run in (first, second))
    for path, leaf in after.items():  # the parts that the second stage leaves alone
        frozen = path.startswith(("encoder/", "latent_tokens", "quantizer/"))
        assert np.array_equal(leaf, before[path]) == frozen, path
    given = paths.flatten(Run(proxy).tokenizer().params)
    for path, leaf in given.items():
        np.testing.assert_array_equal(before[f"proxy/{path}"], leaf)


def test_elm_trains_on_bits_that_are_drawn_anew(tmp_path):
    rows = smoke("configs/elm.py:elm_l,smoke", tmp_path)
    nats = [row["nats_per_image"] for row in rows if row["stage"] == "generator" and "loss" in row]
    assert nats[0] == pytest.approx(
        64 * 8 * np.log(2), rel=1e-3
    )  # the output matrix starts at zero


def test_cifar10_reads_tfds(tmp_path):
    write_tfds(tmp_path, "cifar10", size=32, names=tuple("abcdefghij"))
    rows = smoke("configs/cifar10.py:smoke", tmp_path / "run", f"data.source.data_dir={tmp_path}")
    assert {r["stage"] for r in rows} == {"tokenizer", "generator"}


def test_a_mesh_that_does_not_fit_is_refused(tmp_path, capsys):
    argv = ["--config", "configs/imagenet.py:llamagen_b,smoke", "--workdir", str(tmp_path)]
    assert cli.run(lambda: train.main([*argv, "--config.mesh.tensor=3"])) == 2
    assert "does not fit 8 devices" in capsys.readouterr().err
