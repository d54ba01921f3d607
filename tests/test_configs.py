"""Every recipe builds at full size; its smoke variant runs."""

import importlib.util
import json
from pathlib import Path

import jax.numpy as jnp
import pytest

from imgen import cli, config, train
from imgen.stages import evaluation_task
from imgen.training.sharding import make_mesh
from imgen.training.state import abstract_state
from tests.data.tiny import write_tfds

CONFIGS = sorted(Path("configs").glob("*.py"))


def arguments(path: Path) -> list[str]:
    """The recipes that a config file holds, without their smoke variants."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sizes = getattr(module, "SIZES", ())
    return [f"{path}:{size}" for size in sizes] or [str(path)]


@pytest.mark.parametrize("name", [name for path in CONFIGS for name in arguments(path)])
def test_a_recipe_builds_at_full_size_and_every_parameter_has_its_place(name):
    settings = config.load_config(name)
    assert config.from_json(config.to_json(settings)) == settings
    size = settings.data.image_size
    for stage in settings.train:
        task = evaluation_task(stage, settings)
        batch = {"image": jnp.zeros((1, size, size, 3), jnp.uint8)}
        if stage == "generator":
            batch |= task.generator.conditioner.example(1)
        abstract_state(task, batch, task.sharding_rules, make_mesh(2, 2, 2))


def smoke(name: str, workdir: Path, *overrides: str) -> list[dict]:
    argv = ["--config", name, "--workdir", str(workdir), *(f"--config.{o}" for o in overrides)]
    assert cli.run(lambda: train.main(argv)) == 0
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_imagenet_takes_steps_on_a_mesh_of_eight_devices(tmp_path):
    mesh = [f"mesh.{axis}=2" for axis in ("data", "fsdp", "tensor")]
    rows = smoke("configs/imagenet.py:llamagen_3b,smoke", tmp_path, *mesh)
    assert [r["step"] for r in rows if r["stage"] == "generator" and "loss" in r] == [1, 2, 3, 4]
    assert "fsdp" in (tmp_path / "parameters_generator.txt").read_text()


def test_vq_trains_with_its_discriminator(tmp_path):
    rows = [
        r
        for r in smoke("configs/vq.py:vq16,smoke", tmp_path, "mesh.data=1", "mesh.fsdp=8")
        if "loss" in r
    ]
    before, after = rows[1], rows[2]  # the discriminator starts at step 3
    assert before["adversarial_loss"] == 0 and before["disc_grad_norm"] == 0
    assert after["adversarial_loss"] != 0 and after["disc_grad_norm"] > 0


def test_cifar10_reads_tfds(tmp_path):
    write_tfds(tmp_path, "cifar10", size=32, names=tuple("abcdefghij"))
    rows = smoke("configs/cifar10.py:smoke", tmp_path / "run", f"data.source.data_dir={tmp_path}")
    assert {r["stage"] for r in rows} == {"tokenizer", "generator"}


def test_a_mesh_that_does_not_fit_is_refused(tmp_path, capsys):
    argv = ["--config", "configs/imagenet.py:llamagen_b,smoke", "--workdir", str(tmp_path)]
    assert cli.run(lambda: train.main([*argv, "--config.mesh.tensor=3"])) == 2
    assert "does not fit 8 devices" in capsys.readouterr().err
