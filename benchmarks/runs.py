"""What comparisons of generators share: stored latents, settings to train on them, timing in turns."""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from imgen import config, encode
from imgen.decoding import Filters, Guidance
from imgen.errors import UserError
from imgen.report import pixels as images
from imgen.runs.trained import load_generator
from imgen.training.generator_task import sampler


def refuse_changes(workdir: Path, settings: FrozenConfigDict) -> None:
    """Raises UserError if something was trained here with other settings: its numbers would not compare."""
    if (workdir / "config.json").exists():
        for change in config.check_resume(config.read_config(workdir), settings, workdir):
            raise UserError(f"{workdir} was trained otherwise ({change}); use another --out")


def chosen_or_there(out: Path, chosen: Sequence[str], known: Sequence[str]) -> list[str]:
    """Of the known names those that were chosen and those that were trained in `out` before: the rows of a
    table, which must all have the same settings."""
    return [name for name in known if name in chosen or (out / name / "config.json").exists()]


def store_latents(workdir: str, run: FrozenConfigDict, out: Path) -> Path:
    """The latents of both splits, by imgen.encode, unless they are there."""
    for split in (run.data.train.split, run.data.eval.split):
        if not (out / split / "spec.json").exists():
            encode.main(["--workdir", workdir, "--split", split, "--out", str(out)])
    return out


def on_stored_latents(
    run: FrozenConfigDict, workdir: str, latents: Path, steps: int, batch_size: int
) -> ConfigDict:
    """The config of the run in `workdir`, made to train its generator on stored latents."""
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


def in_turns(jobs: dict, seconds: float) -> dict:
    """Images a second of each (job, images) by its key: medians of rounds in which all have a turn, so that
    whatever else the machine does falls on all of them. A turn is two calls, the second of which is timed:
    the first brings the model's weights back into the cache. At least 5 rounds, `seconds` for each job."""
    for once, _ in jobs.values():
        once(0)
    times, began = {key: [] for key in jobs}, time.monotonic()
    while len(next(iter(times.values()))) < 5 or time.monotonic() - began < seconds * len(jobs):
        for key, (once, _) in jobs.items():
            once(len(times[key]))
            start = time.monotonic()
            once(len(times[key]))
            times[key].append(time.monotonic() - start)
    return {
        key: float(f"{count / statistics.median(times[key]):.3g}")
        for key, (_, count) in jobs.items()
    }


def choices(settings) -> tuple[Guidance, Filters]:
    stage = settings.train.generator
    return (
        Guidance(**config.plain(stage.get("guidance", {}))),
        Filters(**config.plain(stage.get("filters", {}))),
    )


def draw(workdir: Path, settings, num: int) -> np.ndarray:
    """A grid of samples, classes in turn."""
    run = load_generator(workdir)
    ids = jnp.arange(num)
    cond = {"label": ids % run.module.conditioner.num_classes}
    draw_images = sampler(run.module, run.tokenizer, *choices(settings))
    pixels = draw_images(run.params, run.tokenizer_params, cond, jax.random.key(0), ids)
    return images.enlarge(images.grid(jax.device_get(pixels)))
