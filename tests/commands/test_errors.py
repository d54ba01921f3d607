"""What a user can get wrong: one clear line, exit status 2 (3 for a loss that is not finite)."""

import shutil

import jax.numpy as jnp
import pytest
from PIL import Image

from imgen import config, evaluate, sample, train
from imgen.report.metrics_log import read_metrics
from imgen.runs import cli
from imgen.runs.run import Run
from imgen.training import optim
from tests.commands.short import SHORT
from tests.data.tiny import write_tfds

QUICK = "configs/quickstart.py:smoke"


def run(capsys, *arguments: str) -> tuple[int, str]:
    """Exit status and standard error of imgen.train, in this process."""
    status = cli.run(lambda: train.main(arguments))
    return status, capsys.readouterr().err.strip()


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A short run, whose first start was mistaken."""
    workdir = tmp_path_factory.mktemp("errors") / "run"
    common = ["--config", QUICK, "--workdir", f"{workdir}", *SHORT]
    wrong = [*common, "--config.generator.width=50"]
    assert cli.run(lambda: train.main(wrong)) == 2
    assert cli.run(lambda: train.main(common)) == 0
    return workdir


def folder_of_images(path, classes, size=(32, 32)):
    for name, count in classes.items():
        (path / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", size, (i, 0, 0)).save(path / name / f"{i}.png")
    return path


def folder_config(tmp_path):
    """A config that reads a folder: the quickstart with another source."""
    path = tmp_path / "folder.py"
    path.write_text(
        "import importlib.util\n"
        "spec = importlib.util.spec_from_file_location('q', 'configs/quickstart.py')\n"
        "q = importlib.util.module_from_spec(spec); spec.loader.exec_module(q)\n"
        "def get_config():\n"
        "    config = q.get_config('smoke').unlock()\n"
        f"    config.data.source = dict(name='folder', path={str(tmp_path / 'images')!r})\n"
        "    config.data.train = dict(split='train'); config.data.eval = dict(split='test')\n"
        "    config.generator.conditioning.num_classes = 1\n"
        "    return config\n"
    )
    return str(path)


def test_mistyped_key_gets_the_near_one(capsys, tmp_path):
    status, err = run(
        capsys, "--config", QUICK, "--workdir", f"{tmp_path}", "--config.train.tokenizer.step=3"
    )
    assert status == 2 and "train.tokenizer.step" in err and "'train.tokenizer.steps'" in err
    assert len(err.splitlines()) == 1 and "Traceback" not in err


@pytest.mark.parametrize(
    "config, overrides, words",
    [
        (
            "configs/cifar10.py",
            ["data.source.data_dir=/no/such/folder"],
            ["/no/such/folder", "TFDS_DATA_DIR"],
        ),
        (QUICK, ["data.image_size=28"], ["32x32", "28x28"]),
        (QUICK, ["data.image_size=30", "data.source.size=30"], ["30x30", "multiples of 4"]),
        (QUICK, ["data.source.name=shape"], ["'shape'", "shapes"]),
        (QUICK, ["tokenizer.name=vq32"], ["vq32", "vq16"]),
        (QUICK, ["generator.plan=zigzag"], ["zigzag", "raster"]),
        (QUICK, ["generator.width=50"], ["50", "heads"]),
        (QUICK, ["generator.conditioning.num_classes=5"], ["48 classes", "num_classes=48"]),
        (QUICK, ["train.tokenizer.optimizer.schedule.name=cosin"], ["cosin", "cosine"]),
        (QUICK, ["train.tokenizer.batch_size=0"], ["train.tokenizer.batch_size 0", "at least 1"]),
        (QUICK, ["data.image_size=0"], ["image_size 0"]),
        (QUICK, ["data.num_workers=-1"], ["num_workers -1"]),
        (QUICK, ["seed=-1"], ["seed -1"]),
        (QUICK, ["train.tokenizer.optimizer.betas=(0.9,)"], ["betas", "two numbers"]),
        (QUICK, ["init.tokenizer=/no/run"], ["/no/run", "no run", "init.tokenizer"]),
        (QUICK, ["init.generator=/no/run"], ["/no/run", "no run", "init.generator"]),
        ("configs/imagenet.py:llamagen_b", [], ["data.source.path is empty"]),
        ("configs/quickstart.py:smok", [], ["smok", "smoke"]),
        ("configs/quickstrat.py", [], ["quickstart"]),
    ],
)
def test_one_clear_line(capsys, tmp_path, config, overrides, words):
    arguments = [f"--config.{o}" for o in overrides]
    status, err = run(capsys, "--config", config, "--workdir", f"{tmp_path}", *arguments)
    assert status == 2, err
    assert not (tmp_path / "metrics.jsonl").exists(), "found out after training had begun"
    assert len(err.splitlines()) == 1 and err.startswith("imgen: error:"), err
    for word in words:
        assert word in err


@pytest.mark.parametrize(
    "override, words",
    [
        ("train.tokenizer.optimizer.schedule.name=wsdd", ["wsdd", "wsd"]),
        ("train.generator.sample_metrics.name=shape", ["'shape'", "shapes"]),
        ("train.generator.batch_size=20", ["20"]),
        ("generator.plan_options.grups=3", ["grups"]),
        ("tokenizer.codebook_size=0.5", ["codebook_size", "whole number"]),
    ],
)
def test_what_is_wrong_with_the_second_stage_is_said_before_the_first(
    capsys, tmp_path, override, words
):
    arguments = ["--config", QUICK, "--workdir", f"{tmp_path}", f"--config.{override}"]
    status, err = run(capsys, *arguments)
    assert status == 2 and len(err.splitlines()) == 1, err
    assert all(word in err for word in words), err
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    "change, words",
    [
        ("config.data.num_worker = 3", ["config.data", "'num_worker'", "'num_workers'"]),
        ("config.optimizers = 1", ["config has no 'optimizers'"]),
        ("config.mesh.model = 2", ["config.mesh", "'model'"]),
        ("del config.train.tokenizer['steps']", ["config.train.tokenizer", "'steps'"]),
        ("del config.data.source['name']", ["config.data.source", "'name'"]),
        (
            "config.train.tokenizer.microbatches = 0",
            ["train.tokenizer.microbatches 0", "at least 1"],
        ),
        ("config.train.generator.sample_metrics.number = 8", ["'number'", "'num'"]),
        (
            "config.train.generator.sample_eval = dict(num=8, metrics=('fud',))",
            ["train.generator.sample_eval", "'fud'", "fid"],
        ),
        (
            "config.train.tokenizer.sample_eval = dict(num=8, feature='fd_cifar')",
            ["train.tokenizer.sample_eval", "'feature'", "'features'"],
        ),
        (
            "config.train.generator.sample_eval = dict(num=8, features='adm')",
            ["Inception's weights", "imgen.convert"],
        ),
        (
            "config.train.tokenizer.sample_eval = dict(features='random_inception', reference='/no/f')",
            ["/no/f", "no such file or folder"],
        ),
        (
            "config.train.generator.keep_best = dict(metric='loss', mod='max')",
            ["train.generator.keep_best", "'mod'", "'mode'"],
        ),
    ],
)
def test_what_a_config_file_has_wrong(capsys, tmp_path, change, words):
    path = tmp_path / "mine.py"
    path.write_text(
        "from configs import quickstart\n"
        "def get_config():\n"
        "    config = quickstart.get_config('smoke').unlock()\n"
        f"    {change}\n"
        "    return config\n"
    )
    status, err = run(capsys, "--config", f"{path}", "--workdir", f"{tmp_path / 'run'}")
    assert status == 2 and len(err.splitlines()) == 1, err
    assert all(word in err for word in words), err


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("seed", 1.5, ["config.seed=1.5", "whole number"]),
        ("seed", True, ["config.seed=True", "whole number"]),
        ("data.num_workers", 1.5, ["config.data.num_workers=1.5", "whole number"]),
        ("data.flip", "no", ["config.data.flip='no'", "True or False"]),
        ("data.max_bad_share", 1.5, ["max_bad_share 1.5", "at most 1"]),
        ("train", {}, ["config.train is empty"]),
        ("tokenizer.codebook_size", "64", ["tokenizer.codebook_size='64'", "whole number"]),
        ("generator.width", 48.0, ["generator.width=48.0", "whole number"]),
        ("train.tokenizer.steps", 1.5, ["train.tokenizer.steps=1.5", "whole number"]),
        ("train.tokenizer.log_every", -1, ["train.tokenizer.log_every -1", "at least 0"]),
        ("train.tokenizer.keep", 0, ["train.tokenizer.keep 0", "at least 1"]),
        ("train.tokenizer.ema_decay", 1.0, ["train.tokenizer.ema_decay 1.0", "below 1"]),
        ("train.generator.ema_decay", -0.5, ["train.generator.ema_decay -0.5", "at least 0"]),
        ("train.generator.ema_decay", "0.9", ["train.generator.ema_decay='0.9'", "a number"]),
        ("train.generator.num_samples", 0, ["train.generator.num_samples 0", "at least 1"]),
        ("train.generator.condition_dropout", 1.5, ["condition_dropout 1.5", "at most 1"]),
        ("train.generator.guidance.scale", "2", ["guidance.scale='2'", "a number"]),
        ("train.generator.guidance.scale", float("nan"), ["guidance", "nan"]),
        ("train.generator.optimizer.learning_rate", "1e-3", ["learning_rate='1e-3'", "a number"]),
        ("train.generator.optimizer.learning_rate", -1e-3, ["learning_rate -0.001", "at least 0"]),
        ("train.generator.optimizer.clip_norm", -1.0, ["optimizer.clip_norm -1.0", "at least 0"]),
        ("train.generator.optimizer.weight_decay", -0.1, ["optimizer.weight_decay -0.1"]),
        ("train.generator.optimizer.betas", (0.9, 1.0), ["optimizer.betas 1.0", "below 1"]),
        ("train.generator.optimizer.schedule.warmup_steps", -1, ["warmup_steps -1", "at least 0"]),
    ],
)
def test_a_number_of_another_type_or_out_of_its_range(capsys, tmp_path, key, value, words):
    found = config.load_config(QUICK).to_dict()
    *groups, last = key.split(".")
    group = found
    for name in groups:
        group = group[name]
    group[last] = value
    (tmp_path / "mine.py").write_text(
        f"from math import nan\ndef get_config():\n    return {found!r}\n"
    )
    status, err = run(capsys, "--config", f"{tmp_path}/mine.py", "--workdir", f"{tmp_path / 'run'}")
    assert status == 2 and len(err.splitlines()) == 1, err
    assert all(word in err for word in words), err
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize("off", [None, 0.0, 0])
def test_a_clip_norm_of_none_or_0_clips_nothing(off):
    optimizer, _ = optim.make_optimizer(
        learning_rate=1.0, total_steps=1, name="adam", clip_norm=off
    )
    params = {"a": jnp.zeros(2)}
    grads = {"a": jnp.array([1e-12, 1e6])}
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    clipped, _ = optim.make_optimizer(learning_rate=1.0, total_steps=1, name="adam", clip_norm=1.0)
    others, _ = clipped.update(grads, clipped.init(params), params)
    # Adam divides by |g| + 1e-8: only of the gradient as it is does the small one come to 1e-4.
    assert updates["a"][0] == pytest.approx(-1e-4, rel=1e-2) and abs(others["a"][0]) < 1e-9


def test_a_mistake_does_not_spoil_the_workdir(begun):
    rows = read_metrics(begun / "metrics.jsonl")
    steps = {row["stage"]: row["step"] for row in rows if "loss" in row}
    assert steps == {"tokenizer": 2, "generator": 1} and Run(begun).generator().step == 1


def test_a_run_without_generator_says_so(capsys, tmp_path):
    (tmp_path / "config.json").write_text(
        config.to_json(config.load_config("configs/vq.py:vq16,smoke"))
    )
    for command in (sample, evaluate):
        arguments = ["--workdir", f"{tmp_path}", "--out", f"{tmp_path}/out"][
            : 4 if command is sample else 2
        ]
        status = cli.run(lambda c=command, a=arguments: c.main(a))
        err = capsys.readouterr().err
        assert status == 2 and "Traceback" not in err
        assert (
            "no generator" if command is sample else "no readable checkpoint"
        ) in err or "train" in err


def test_workdir_that_cannot_be_written(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    status, err = run(capsys, "--config", QUICK, "--workdir", f"{tmp_path}/file/run")
    assert status == 2 and "cannot write" in err and "--workdir" in err


def test_missing_data_set_lists_those_that_are_there(capsys, tmp_path):
    write_tfds(tmp_path / "data")
    status, err = run(
        capsys, "--config", "configs/cifar10.py", "--workdir", f"{tmp_path}/run",
        f"--config.data.source.data_dir={tmp_path}/data",
    )  # fmt: skip
    assert status == 2 and "cifar10" in err and "tiny" in err


def test_empty_class_folder(capsys, tmp_path):
    folder_of_images(tmp_path / "images", {"cats": 2, "dogs": 0})
    status, err = run(capsys, "--config", folder_config(tmp_path), "--workdir", f"{tmp_path}/run")
    assert status == 2 and "dogs" in err and len(err.splitlines()) == 1


def test_image_of_another_size(capsys, tmp_path):
    folder_of_images(tmp_path / "images", {"cats": 40}, size=(40, 32))
    status, err = run(capsys, "--config", folder_config(tmp_path), "--workdir", f"{tmp_path}/run")
    assert status == 2 and "40x32" in err and "crop" in err


def test_too_many_broken_images(capsys, tmp_path):
    folder = folder_of_images(tmp_path / "images", {"cats": 40})
    for i in range(0, 40, 3):
        (folder / "cats" / f"{i}.png").write_bytes(b"no image")
    status, err = run(capsys, "--config", folder_config(tmp_path), "--workdir", f"{tmp_path}/run")
    assert status == 2 and "max_bad_share" in err and ".png" in err


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(
    capsys, begun, tmp_path
):
    workdir = tmp_path / "run"
    shutil.copytree(begun, workdir)
    shutil.rmtree(workdir / "checkpoints" / "generator")
    common = ["--config", QUICK, "--workdir", f"{workdir}", *SHORT]
    common += ["--config.train.tokenizer.log_every=1", "--config.train.tokenizer.steps=4"]
    kept = sorted(p.name for p in (workdir / "checkpoints" / "tokenizer").iterdir())
    status, err = run(capsys, *common, "--config.train.tokenizer.optimizer.learning_rate=1e38")
    said = [
        line for line in err.splitlines() if line.startswith("imgen:")
    ]  # a slow step shows progress too
    assert status == 3 and len(said) == 1
    assert "tokenizer step" in err and "checkpoints/tokenizer/2" in err
    assert sorted(p.name for p in (workdir / "checkpoints" / "tokenizer").iterdir()) == kept


def test_resuming_another_architecture(capsys, begun):
    common = ["--config", QUICK, "--workdir", f"{begun}", *SHORT]
    status, err = run(capsys, *common, "--config.tokenizer.ch=24")
    assert status == 2 and "tokenizer.ch=8" in err and "24" in err and "--workdir" in err
