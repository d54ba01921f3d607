"""Tokenizers side by side: the same pictures, the same number of steps.

    python -m benchmarks.compare_tokenizers --data cifar10 --out DIR [--steps 1500] [--tokenizers vq,fsq]

Trains each recipe of configs/small_tokenizers.py in DIR/NAME (a run like any other: started again, the
command goes on where it stopped), measures it on the whole held-out split and writes DIR/results.jsonl,
DIR/table.md, DIR/compare.html with a rate-distortion plot, and DIR/NAME.png: original | reconstruction pairs.
flextok works on the latents of kl, which is trained before it.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from ml_collections import FrozenConfigDict

from benchmarks.page import write_page, write_table
from benchmarks.runs import in_turns, refuse_changes
from configs.small_tokenizers import SIZES
from imgen import config, train
from imgen.errors import UserError
from imgen.params import paths
from imgen.report import charts as plot
from imgen.report import pixels as images
from imgen.runs import cli
from imgen.runs import held_out as run_metrics
from imgen.runs.held_out import HeldOut
from imgen.runs.stages import eval_transform, open_source
from imgen.runs.trained import load_tokenizer
from imgen.training.reconstructions import reconstructor, stripper

CONFIG = "configs/small_tokenizers.py"
DATA = ("cifar10", "imagenet")
COLUMNS = {
    "name": "tokenizer",
    "parameters": "parameters",
    "tokens": "tokens",
    "bits": "bits/image",
    "psnr": "PSNR",
    "ssim_gauss11": "SSIM",
    "usage": "usage",
    "entropy": "entropy/bits",
    "decode_images_per_second": "decoding images/s",
}
BATCH = 32  # images that are decoded at a time
PREFIX_IMAGES = (
    1000  # on which shorter codes are measured: each number of tokens is decoded for itself
)
NOTE = (
    f"On all held-out images (points of flextok's fewer tokens: the first {PREFIX_IMAGES:,}). "
    "Bits at fixed length; continuous latents have none. Usage: share of the codes that occur in the "
    "held-out set, be they indices or made of bits. Entropy/bits: entropy of one code over its length. "
    "Decoding: all decoders timed in turns, medians."
)


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.Parser(prog="benchmarks.compare_tokenizers", description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=DATA, default="cifar10")
    parser.add_argument("--out", required=True, metavar="DIR")
    parser.add_argument("--tokenizers", help="names, joined by commas (default: all)")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seconds", type=float, default=2.0, help="to time each decoder for")
    parser.add_argument("--smoke", action="store_true", help="tiny models on drawn shapes")
    args, overrides = parser.parse_with_overrides(argv)
    asked = args.tokenizers.split(",") if args.tokenizers else SIZES
    for name in asked:
        if name not in SIZES:
            raise UserError(f"--tokenizers {name!r} is none of {', '.join(SIZES)}")
    cli.use_compilation_cache()
    out = cli.make_workdir(args.out, "--out")
    needed = {"kl"} if "flextok" in asked and not (out / "kl").exists() else set()
    names = [name for name in SIZES if name in {*asked, *needed}]  # kl comes before flextok
    for name in names:
        arg = ",".join([name, args.data, *(["smoke"] if args.smoke else [])])
        changes = [f"train.tokenizer.steps={args.steps}", *overrides]
        if name == "flextok":
            changes.append(f"init.parts.vae={out / 'kl'}")
        settings = config.load_config(f"{CONFIG}:{arg}", changes)
        refuse_changes(out / name, settings)
        workdir, done = cli.make_workdir(out / name), out / name / "row.json"
        if not done.exists():
            train.train(settings, workdir)
            draw(out / f"{name}.png", workdir, settings)
            done.write_text(json.dumps(measure(name, workdir, settings)))
    there = [name for name in SIZES if (out / name / "row.json").exists()]
    rows = [json.loads((out / name / "row.json").read_text()) for name in there]
    for row in rows:
        if row["steps"] != args.steps:
            raise UserError(
                f"{out / row['name']} was trained for {row['steps']} steps, not {args.steps}: use another "
                "--out"
            )
    jobs = {name: (decoding(out / name), BATCH) for name in there}
    for row, speed in zip(rows, in_turns(jobs, args.seconds).values(), strict=True):
        row["decode_images_per_second"] = speed
    (out / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report(out, rows, args.data)


def measure(name: str, workdir: Path, settings: FrozenConfigDict) -> dict:
    """A row of the table: what training came to on the whole held-out split."""
    run = load_tokenizer(workdir)
    nested = run.module.nested
    found = run_metrics.reconstruction(HeldOut(workdir), settings)
    spec, points = run.spec, []
    if nested:
        fewer = run_metrics.prefixes(HeldOut(workdir, PREFIX_IMAGES), settings)["by_tokens"]
        points = [
            [int(k) * spec.bits / spec.grid[0], row["psnr"], row["ssim_gauss11"]]
            for k, row in fewer.items()
        ]
    elif found["bits"]:
        points = [[found["bits"], found["psnr"], found["ssim_gauss11"]]]
    entropy = None
    if "perplexity" in found:
        length = spec.size if spec.kind == "bits" else np.log2(spec.size)
        length = found.get("sub_code_bits", length)
        entropy = np.log2(found["perplexity"]) / length
    usage = found.get("codebook_usage")
    return {
        "name": name,
        "parameters": sum(x.size for x in paths.flatten(run.params).values()),
        "steps": found["step"],
        "images": found["images"],
        "tokens": round(found["tokens"]),
        "bits": None if found["bits"] is None else round(found["bits"]),
        "psnr": round(found["psnr"], 2),
        "ssim_gauss11": round(found["ssim_gauss11"], 3),
        "usage": None if usage is None else f"{100 * usage:.1f} %",
        "entropy": None if entropy is None else round(float(entropy), 3),
        "points": points,
        "device": jax.devices()[0].device_kind,
    }


def decoding(workdir: Path) -> Callable[[int], None]:
    """Decodes BATCH images of a run from latents to pixels, and waits for them."""
    run, size = load_tokenizer(workdir), config.read_config(workdir).data.image_size
    latents = jax.device_put(run.encode(np.zeros((BATCH, size, size, 3), np.uint8)))
    decode = jax.jit(lambda params, x: run.module.apply({"params": params}, x, method="decode"))
    params = jax.device_put(run.params)
    return lambda number: jax.block_until_ready(decode(params, latents))


def draw(path: Path, workdir: Path, settings: FrozenConfigDict) -> None:
    """Original | reconstruction of the first held-out images, fewer of large ones; of nested tokenizers,
    strips."""
    run, num = load_tokenizer(workdir), 16 if settings.data.image_size <= 64 else 4
    source, transform = open_source(settings, "eval"), eval_transform(settings)
    originals = np.stack([transform(source[i], None)["image"] for i in range(num)])
    if run.module.nested:
        strips = jax.device_get(stripper(run.module)(run.params, originals[: num // 2]))
        tiles, columns = strips.reshape(-1, *strips.shape[2:]), strips.shape[1]
    else:
        recon = jax.device_get(reconstructor(run.module)(run.params, originals))
        tiles, columns = np.stack([originals, recon], 1).reshape(-1, *recon.shape[1:]), 8
    images.save_png(path, images.enlarge(images.grid(tiles, columns=columns)))


def report(out: Path, rows: list[dict], data: str) -> None:
    """DIR/table.md, also printed, and DIR/compare.html."""
    print(write_table(out / "table.md", rows, COLUMNS, NOTE))
    charts = {}
    with_bits = [row for row in rows if row["points"]]
    for heading, column in (("PSNR (dB)", 1), ("SSIM (gauss11)", 2)):
        groups = [
            (r["name"], [p[0] for p in r["points"]], [p[column] for p in r["points"]])
            for r in with_bits
        ]
        if groups:
            charts[heading] = plot.scatter(groups, "bits per image", heading)
    write_page(
        out / "compare.html",
        f"Tokenizers after {rows[0]['steps']:,} steps on {data} ({rows[0]['device']})",
        rows,
        COLUMNS,
        NOTE,
        charts,
        {row["name"]: out / f"{row['name']}.png" for row in rows},
    )


if __name__ == "__main__":
    sys.exit(cli.run(main))
