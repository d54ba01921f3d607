"""LlamaGen on ImageNet: published sizes and recipe (paper, Tables 6 and 8; issue 8 of the repository).

The released tokenizer as a run, codes of both published sets of ten crops, then training on them:

    python -m imgen.convert --system llamagen_vq16 --checkpoint vq_ds16_c2i.pt --config configs/vq.py:vq16 \
        --out VQ16_RUN
    for RANGE in 1.1 1.05; do for SPLIT in train validation; do
      python -m imgen.encode --workdir VQ16_RUN --dataset imagenet2012 --split $SPLIT \
          --ten_crop --crop_range $RANGE --out codes_$RANGE
    done; done
    python -m imgen.train --config configs/imagenet.py:llamagen_b --workdir RUN \
        --config.data.source.path="('codes_1.1','codes_1.05')" --config.init.tokenizer=VQ16_RUN

Published FID (300 epochs; T 1, no top-k, 50,000 samples, ADM evaluator), guidance in brackets: at 256x256
B 5.46 (2.0), L 3.80 (1.75); at 384x384 XL 2.62 (1.75), XXL 2.34 (1.75), 3B 2.18 (1.65). Not reproduced
here yet. `llamagen_X,384` is the 24x24 grid (encode with --image_size 384); `smoke` cuts width, depth and
steps to a minute on a CPU, on codes of shapes made on the fly.
"""

from ml_collections import ConfigDict

from imgen.errors import UserError
from imgen.generators.presets import LLAMAGEN

IMAGES = 1_281_167
EPOCHS = 300
# size: (global batch, learning rate, guidance of the published figure), as run by the authors.
RECIPES = {
    "b": (256, 1e-4, 2.0),
    "l": (256, 1e-4, 1.75),
    "xl": (256, 2e-4, 1.75),
    "xxl": (512, 2e-4, 1.75),
    "3b": (512, 2e-4, 1.65),
}
SIZES = tuple(f"llamagen_{size}" for size in RECIPES)
ARGS = (*SIZES, "384", "smoke")


def get_config(arg: str | None = None) -> ConfigDict:
    parts = (arg or "llamagen_b").split(",")
    chosen = [part for part in parts if part in SIZES]
    if len(chosen) != 1:
        raise UserError(f"configs/imagenet.py:ARG names one of {', '.join(SIZES)}")
    size = chosen[0].removeprefix("llamagen_")
    batch_size, learning_rate, guidance = RECIPES[size]
    image_size = 384 if "384" in parts else 256
    config = ConfigDict(
        dict(
            seed=0,
            mesh=dict(data=-1, fsdp=1, tensor=1),
            data=dict(
                source=dict(name="latents", path=()),
                train=dict(split="train"),
                eval=dict(split="validation", num_examples=10_000),
                image_size=image_size,
            ),
            tokenizer=dict(name="vq16", dtype="bfloat16"),
            init=dict(tokenizer="", generator=""),
            generator=dict(
                plan="raster",
                plan_options=dict(),
                conditioning=dict(name="class", num_classes=1000),
                **LLAMAGEN[size.upper()],
                dropout=0.1,
                remat="none" if size in ("b", "l") else "dots",
                dtype="bfloat16",
            ),
            train=dict(
                generator=dict(
                    steps=EPOCHS * (IMAGES // batch_size),
                    batch_size=batch_size,
                    log_every=100,
                    eval_every=10_000,
                    checkpoint_every=5_000,
                    visualize_every=10_000,
                    condition_dropout=0.1,
                    microbatches=1,
                    optimizer=dict(
                        name="adamw",
                        learning_rate=learning_rate,
                        betas=(0.9, 0.95),
                        weight_decay=0.05,
                        clip_norm=1.0,
                        schedule=dict(name="constant"),
                    ),
                    guidance=dict(scale=guidance),
                ),
            ),
        )
    )
    if "smoke" in parts:  # the same generator stage, narrow, on codes of shapes made on the fly
        config.data = dict(
            source=dict(name="shapes", size=32),
            train=dict(split="train", num=256),
            eval=dict(split="test", num=48),
            image_size=32,
            crop="none",
            flip=False,
        )
        config.tokenizer = dict(
            name="vq", patch=4, ch=16, ch_mult=(1,), num_res_blocks=1, z_channels=16, groups=8,
            mid_attention=False, attention_levels=(), codebook_size=64,
        )  # fmt: skip
        config.train.tokenizer = dict(
            steps=4, batch_size=16, log_every=1, optimizer=dict(learning_rate=1e-3)
        )
        heads = config.generator.heads
        config.generator.update(width=4 * heads, depth=2, hidden=128)
        config.generator.conditioning.num_classes = 48
        config.train.generator.update(steps=4, batch_size=16, log_every=1, num_samples=4)
    return config
