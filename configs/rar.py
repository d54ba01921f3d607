"""RAR on ImageNet: random orders that become raster order in training (repository bytedance/1d-tokenizer).

Codes of MaskGIT's VQGAN, then training on them:

    python -m imgen.convert --system maskgit_vqgan --checkpoint maskgit-vqgan-imagenet-f16-256.bin \
        --config configs/vq.py:maskgit_vqgan --out VQGAN_RUN
    for SPLIT in train validation; do
      python -m imgen.encode --workdir VQGAN_RUN --dataset imagenet2012 --split $SPLIT --ten_crop --out codes
    done
    python -m imgen.train --config configs/rar.py:b --workdir RUN \
        --config.data.source.path="('codes',)" --config.init.tokenizer=VQGAN_RUN

Sizes b, l, xl, xxl: FID 1.95, 1.70, 1.50, 1.48 with the guidance and temperature below. Not reproduced here.
An order is random with a probability of 1 up to half of the run and of 0 from three quarters on.
The repository's schedule: batches of 2048, 100 of 400 epochs of warm-up, a cosine to 1e-5; no average of
weights.
`smoke` trains a narrow one on shapes in seconds.
"""

from ml_collections import ConfigDict

from configs import imagenet
from imgen.config import choose
from imgen.generators.presets import RAR, RAR_BLOCK

SIZES = ("b", "l", "xl", "xxl")
ARGS = (*SIZES, "smoke")
STEPS, WARMUP_STEPS, BATCH_SIZE = 250_000, 62_500, 2048
# Guidance at the end, the power of its cosine, and the temperature (README_RAR.md).
SAMPLING = {
    "b": (16.0, 2.75, 1.0),
    "l": (15.5, 2.5, 1.02),
    "xl": (6.9, 1.5, 1.02),
    "xxl": (8.0, 1.2, 1.02),
}
# Neither biases, norms nor what has "embed" in its official name: the vocabulary, the tables of positions and
# slots. That of the exit has "ln" in it ("adaln_before_head").
DECAY = ((r"exit/", 0.0), (r"(kernel|conditioner/start)$", 1.0), (".*", 0.0))


def get_config(arg: str | None = None) -> ConfigDict:
    size, options = choose(arg, SIZES, __file__)
    smoke = "smoke" in options
    config = imagenet.get_config("llamagen_b,smoke" if smoke else "llamagen_b")
    conditioning = dict(config.generator.conditioning, start=True)
    config.generator = dict(
        **RAR_BLOCK,
        **RAR[size.upper()],
        scheme_options=dict(start=0.5, end=0.75),
        conditioning=conditioning,
        remat="none" if size in ("b", "l") else "dots",
        dtype="bfloat16",
    )
    stage = config.train.generator
    scale, power, temperature = SAMPLING[size]
    stage.guidance = dict(scale=scale, schedule="pow_cosine", power=power)
    stage.filters = dict(temperature=temperature)
    stage.optimizer = dict(
        name="adamw", learning_rate=4e-4, betas=(0.9, 0.96), weight_decay=0.03, decay=DECAY,
        clip_norm=1.0,
        schedule=dict(name="cosine", warmup_steps=WARMUP_STEPS, final=1e-5 / 4e-4),
    )  # fmt: skip
    if smoke:
        config.generator.update(width=32, depth=2, heads=2, hidden=64, dtype="float32")
        stage.optimizer.schedule.warmup_steps = 1
    else:
        config.tokenizer = dict(name="maskgit_vqgan", dtype="bfloat16")
        stage.update(steps=STEPS, batch_size=BATCH_SIZE)
    return config
