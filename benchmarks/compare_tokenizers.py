"""Tokenizers side by side: the same pictures, the same number of steps.

    python -m benchmarks.compare_tokenizers --data cifar10 --out DIR [--steps 1500] [--tokenizers vq,fsq]

Trains each recipe of configs/small_tokenizers.py in DIR/NAME (a run like any other: started again, the
command goes on where it stopped), measures it on the whole held-out split and writes DIR/results.jsonl,
DIR/table.md, DIR/compare.html with a rate-distortion plot, and DIR/NAME.png: original | reconstruction pairs.
flextok works on the latents of kl, which is trained before it.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from matplotlib.figure import Figure
from ml_collections import FrozenConfigDict

from benchmarks.comparison import Comparison, Job, chosen, in_turns
from benchmarks.scatter import scatter
from configs.small_tokenizers import SIZES
from imgen import config
from imgen.params import paths
from imgen.report import pixels
from imgen.runs import cli, held_out
from imgen.runs.run import Run
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
    asked = chosen(args.tokenizers, [*SIZES], "--tokenizers")
    vae = Path(args.out) / "kl"
    needed = ["kl"] if "flextok" in asked and not vae.exists() else []  # kl comes before flextok
    comparison = Comparison(args.out, [*asked, *needed], [*SIZES])

    def settings(name: str) -> FrozenConfigDict:
        arg = ",".join([name, args.data, *(["smoke"] if args.smoke else [])])
        changes = [f"train.tokenizer.steps={args.steps}", *overrides]
        if name == "flextok":
            changes.append(f"init.parts.vae={vae}")
        return config.load_config(f"{CONFIG}:{arg}", changes)

    runs = comparison.train(settings, measure, draw)
    jobs = {name: decoding(run) for name, run in runs.items()}
    for name, speed in in_turns(jobs, args.seconds).items():
        comparison.add(name, {"decode_images_per_second": speed})
    title = f"Tokenizers after {args.steps:,} steps on {args.data}"
    comparison.report(title, COLUMNS, NOTE, rate_distortion([*comparison.rows.values()]))


def rate_distortion(rows: list[dict]) -> dict[str, Figure]:
    """Returns charts of likeness over bits, of those that have any."""
    charts = {}
    for heading, column in (("PSNR (dB)", 1), ("SSIM (gauss11)", 2)):
        groups = [
            (row["name"], [p[0] for p in row["points"]], [p[column] for p in row["points"]])
            for row in rows
            if row["points"]
        ]
        if groups:
            charts[heading] = scatter(groups, "bits per image", heading)
    return charts


def measure(run: Run) -> dict:
    """Returns what training came to on the whole held-out split."""
    trained = run.tokenizer()
    found = held_out.reconstruction(held_out.HeldOut(run))
    spec, points = trained.spec, []
    if trained.module.nested:
        on = held_out.HeldOut(run, PREFIX_IMAGES)
        fewer = held_out.prefixes(on)["by_tokens"]
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
        "parameters": sum(x.size for x in paths.flatten(trained.params).values()),
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


def decoding(run: Run) -> Job:
    """Returns the decoding of BATCH images of a run from latents to pixels."""
    trained, size = run.tokenizer(), run.experiment.data.image_size
    latents = jax.device_put(trained.encode(np.zeros((BATCH, size, size, 3), np.uint8)))
    decode = jax.jit(lambda params, x: trained.module.apply({"params": params}, x, method="decode"))
    params = jax.device_put(trained.params)
    return lambda number: jax.block_until_ready(decode(params, latents)), BATCH


def draw(run: Run) -> np.ndarray:
    """Returns a grid: original | reconstruction of the first held-out images, fewer of large ones; of nested
    tokenizers, strips."""
    trained, data = run.tokenizer(), run.experiment.data
    num = 16 if data.image_size <= 64 else 4
    originals, _ = next(data.images("eval", num).read(num))
    if trained.module.nested:
        strips = jax.device_get(stripper(trained.module)(trained.params, originals[: num // 2]))
        tiles, columns = strips.reshape(-1, *strips.shape[2:]), strips.shape[1]
    else:
        recon = jax.device_get(reconstructor(trained.module)(trained.params, originals))
        tiles, columns = np.stack([originals, recon], 1).reshape(-1, *recon.shape[1:]), 8
    return pixels.enlarge(pixels.grid(tiles, columns=columns))


if __name__ == "__main__":
    sys.exit(cli.run(main))
