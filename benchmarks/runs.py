"""What comparisons of generators share: stored latents, settings to train on them, samples of them."""

import statistics
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from imgen import encode
from imgen.report import pixels
from imgen.report.metrics_log import read_metrics
from imgen.runs.run import Run
from imgen.training.generator_task import sampler


def store_latents(workdir: str, run: FrozenConfigDict, out: Path) -> Path:
    """Stores the latents of both splits, by imgen.encode, unless they are there; returns `out`."""
    for split in (run.data.train.split, run.data.eval.split):
        if not (out / split / "spec.json").exists():
            encode.main(["--workdir", workdir, "--split", split, "--out", str(out)])
    return out


def on_stored_latents(
    run: FrozenConfigDict, workdir: str, latents: Path, steps: int, batch_size: int
) -> ConfigDict:
    """Returns the config of the run in `workdir`, made to train its generator on stored latents."""
    settings = ConfigDict(run.to_dict()).unlock()
    held_out = {"split": run.data.eval.split, "num_examples": run.data.eval.get("num_examples")}
    settings.data = dict(
        source=dict(name="latents", path=str(latents)),
        train=dict(split=run.data.train.split),
        eval=held_out,
        image_size=run.data.image_size,
    )
    settings.init = dict(tokenizer=workdir)
    stage = settings.train.get("generator", {})
    settings.train = dict(generator=stage)
    every = max(steps // 4, 1)
    settings.train.generator.update(
        steps=steps,
        batch_size=batch_size,
        eval_every=every,
        checkpoint_every=every,
        visualize_every=0,
    )
    return settings


def training(run: Run, value: str) -> dict:
    """Returns what metrics.jsonl says for a generator's row: steps, speed, the curve of a held-out value."""
    rows = read_metrics(run.workdir / "metrics.jsonl")
    speeds = [row["images_per_second"] for row in rows if "images_per_second" in row]
    return {
        "steps": rows[-1]["step"],
        "train_images_per_second": round(statistics.median(speeds), 1),
        "curve": [[row["step"], row[value]] for row in rows if value in row],
        "device": jax.devices()[0].device_kind,
    }


def draw(run: Run, num: int) -> np.ndarray:
    """Returns a grid of samples, classes in turn."""
    trained = run.generator()
    ids = jnp.arange(num)
    cond = {"label": ids % trained.module.conditioner.num_classes}
    draw_images = sampler(trained.module, trained.tokenizer, run.sampling())
    images = draw_images(trained.params, trained.tokenizer_params, cond, jax.random.key(0), ids)
    return pixels.enlarge(pixels.grid(jax.device_get(images)))
