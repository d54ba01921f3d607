"""imgen.train and imgen.evaluate as two processes, as on two hosts."""

import json
import socket
import subprocess
import sys
import time

import pytest
from PIL import Image

from imgen import evaluate
from imgen.runs import cli
from tests.conditioning.tiny_clip import write_clip
from tests.evaluation.toy_network import untrained_weights
from tests.training.killing import environment, exact_rows, run

SHORT = [
    "--config.train.tokenizer.steps=2",
    "--config.train.generator.steps=2",
    "--config.train.generator.sample_metrics.num=4",
]
OF_RUN = ("reconstruction", "likelihood", "baselines")


def start(
    index: int, port: int, *arguments: str, module: str = "imgen.train", devices: int = 1
) -> subprocess.Popen:
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            module,
            "--distributed",
            f"localhost:{port},2,{index}",
            *arguments,
        ],
        env=environment(devices),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def test_two_processes_train_sample_and_measure_as_one_does(tmp_path):
    common = ["--config", "configs/quickstart.py:smoke", *SHORT]
    port = free_port()
    pair = [start(i, port, *common, "--workdir", str(tmp_path / "two")) for i in (0, 1)]
    output = [process.communicate(timeout=300)[0] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], output
    alone = run(
        [sys.executable, "-m", "imgen.train", *common, "--workdir", str(tmp_path / "one")],
        environment(),
    )
    assert alone.returncode == 0, alone.stderr
    two, one = exact_rows(tmp_path / "two"), exact_rows(tmp_path / "one")
    assert len(two) == len(one)
    for ours, theirs in zip(two, one, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() & {"loss", "val/psnr", "val/nats_per_image"}:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3), name
    assert list((tmp_path / "two/samples/generator").glob("*.png"))
    measures_of_two_processes_are_those_of_one(tmp_path / "two", tmp_path)


def measures_of_two_processes_are_those_of_one(workdir, tmp_path):
    """Samples, reconstructions and their features on two processes with two devices each, which take turns
    in the mesh; alone on eight devices, on each as many images at a time."""
    weights = untrained_weights(tmp_path / "fd.safetensors")
    metrics = ["fid,kid,is,precision_recall,cmmd,rfid,rkid,psnr", *OF_RUN]
    common = ["--workdir", str(workdir), "--metrics", ",".join(metrics), "--num", "21"]
    common += ["--batch_size", "2"]
    common += ["--clip_weights", write_clip(tmp_path / "clip")]
    common += ["--reference_num", "33", "--features", "fd_cifar", "--features_weights", weights]
    port = free_port()
    how = dict(module="tests.commands.interleaved", devices=2)
    pair = [start(i, port, *common, **how) for i in (0, 1)]
    output = [process.communicate(timeout=300)[0] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], output
    two = json.loads((workdir / "evaluation.json").read_text())
    assert cli.run(lambda: evaluate.main(common)) == 0
    one = json.loads((workdir / "evaluation.json").read_text())
    for metric in OF_RUN:  # of the same protocol, so that the one stands in the other's place
        [ours], [theirs] = two[metric], one[metric]
        assert ours["protocol"] == theirs["protocol"], metric
        numbers = [{k: v for k, v in r.items() if type(v) in (int, float)} for r in (ours, theirs)]
        speed = {k: theirs[k] for k in ("seconds", "images_per_second")}
        assert numbers[0] | speed == pytest.approx(numbers[1], rel=1e-6), metric
    two, one = ({k: r for k, [r] in found["results"].items()} for found in (two, one))
    assert two.keys() == one.keys() >= {"gfd/fd_cifar/21", "rfd_val/fd_cifar/21", "psnr/21"}
    assert "cmmd/clip_w64_d2_p4_8/21" in one
    for name in one:
        assert two[name]["value"] == pytest.approx(one[name]["value"], rel=1e-6), name


def test_a_mistake_that_one_process_meets_ends_both(tmp_path):
    for number in range(40):
        folder = tmp_path / "images" / "train" / "a"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (number, 0, 0)).save(folder / f"{number:02d}.png")
    (tmp_path / "images" / "val" / "a").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(tmp_path / "images" / "val" / "a" / "0.png")
    Image.new("RGB", (40, 32)).save(folder / "07.png")
    config = tmp_path / "mine.py"
    config.write_text(
        "from configs import quickstart\n"
        "def get_config():\n"
        "    config = quickstart.get_config('smoke').unlock()\n"
        f"    config.data.source = dict(name='folder', path={str(tmp_path / 'images')!r})\n"
        "    config.data.train = dict(split='train'); config.data.eval = dict(split='val')\n"
        "    del config.train['generator']\n"
        # The coordinating process meets it, in the first batch; had it been the other, the end would come
        # only after JAX's heartbeat of 100 s.
        "    config.seed = 2\n"
        "    config.train.tokenizer.batch_size = 4\n"
        "    config.train.tokenizer.steps = 1000\n"
        "    return config\n"
    )
    port, began = free_port(), time.monotonic()
    arguments = ["--config", str(config), "--workdir", str(tmp_path / "run")]
    pair = [start(i, port, *arguments) for i in (0, 1)]
    output = [process.communicate(timeout=200)[0] for process in pair]
    assert any("40x32" in text for text in output), output
    assert 2 in [process.returncode for process in pair]
    assert 0 not in [process.returncode for process in pair]
    assert time.monotonic() - began < 90


def test_processes_with_unlike_configs_all_say_so(tmp_path):
    """Before anything is built; where each finds its data may differ."""
    common = ["--config", "configs/quickstart.py:smoke", "--workdir", str(tmp_path / "run")]
    port = free_port()
    own = (
        ["--config.data.num_workers=1"],
        ["--config.train.generator.optimizer.learning_rate=0.5"],
    )
    pair = [start(i, port, *common, *own[i]) for i in (0, 1)]
    output = [process.communicate(timeout=200)[0] for process in pair]
    assert [process.returncode for process in pair] == [2, 2], output
    for text in output:
        (line,) = (line for line in text.splitlines() if line.startswith("imgen: error:"))
        assert "train.generator.optimizer.learning_rate=0.003, process 1 0.5" in line
    assert not (tmp_path / "run" / "config.json").exists()
