"""xAR on ImageNet: next-cell prediction with flow matching (repository OliverRensu/xAR).

Moments of the centre crop and its mirror image, then training on them, drawn anew at each visit:

    for SPLIT in train validation; do
      python -m imgen.encode --workdir KL16_RUN --dataset imagenet2012 --split $SPLIT --out moments
    done
    python -m imgen.train --config configs/xar.py:b --workdir RUN \
        --config.data.source.path="('moments',)" --config.init.tokenizer=KL16_RUN

Sizes b, l, h. Published FID at 256x256: L 1.28, H 1.24 (800 epochs), B 2.48 after 400. Not reproduced here.
The repository's schedule: 100 epochs of warm-up, constant until 600 of 800, then a cosine; here shares of the
run's steps, so a shorter run decays too. The entity is a cell of 8x8 of the 16x16 latents;
`--config.generator.entity` takes token, subsample, scale or image too, whose options are side, stride and
shares (`--config.generator.entity_options.side=4`).
`smoke` trains a narrow one on shapes in seconds.
"""

from ml_collections import ConfigDict

from configs import imagenet
from imgen.config import choose
from imgen.generators.presets import XAR

SIZES = ("b", "l", "h")
ARGS = (*SIZES, "smoke")
IMAGES = 1_281_167
EPOCHS, WARMUP_EPOCHS, DECAY_EPOCHS = 800, 100, 200
BATCH_SIZE = 2048
SAMPLING = {"b": (40, 2.7), "l": (50, 2.3), "h": (50, 2.2)}  # solver steps and guidance, README


def get_config(arg: str | None = None) -> ConfigDict:
    size, options = choose(arg, SIZES, __file__)
    smoke = "smoke" in options
    steps, guidance = SAMPLING[size]
    base = imagenet.get_config
    config = base("llamagen_b,smoke" if smoke else "llamagen_b")
    config.generator = dict(
        name="xar",
        entity="cell",
        entity_options=dict(),
        conditioning=config.generator.conditioning,
        **XAR[size.upper()],
        dropout=0.1,
        remat="full" if size == "h" else "none",
        dtype="bfloat16",
    )
    stage = config.train.generator
    # Stored moments are drawn from as they are read.
    stage.update(ema_decay=0.9999, sample_latents=smoke)
    stage.optimizer = dict(
        name="adamw",
        learning_rate=5e-5 * BATCH_SIZE / 256,
        betas=(0.9, 0.96),
        weight_decay=0.02,
        clip_norm=1.0,
        schedule=dict(
            name="wsd",
            warmup_steps=0,
            warmup_share=WARMUP_EPOCHS / EPOCHS,
            decay_share=DECAY_EPOCHS / (EPOCHS - WARMUP_EPOCHS),
            final=1e-5 / 4e-4,
            shape="cosine",
        ),
    )
    stage.guidance = dict(scale=guidance, schedule="linear")
    stage.sampling = dict(solver="euler_maruyama", steps=steps)
    if smoke:
        config.tokenizer = dict(
            name="kl", patch=4, ch=16, ch_mult=(1,), num_res_blocks=1, groups=4, z_channels=4,
            embed_dim=4, encoder_attention_levels=(),
        )  # fmt: skip
        config.data.flip = True
        config.generator.update(width=32, depth=(1, 1), heads=2, dtype="float32")
        stage.sampling.steps = 3
        config.generator.entity_options.side = 4
    else:
        config.tokenizer = dict(name="kl16", dtype="bfloat16")
        stage.update(steps=EPOCHS * (IMAGES // BATCH_SIZE), batch_size=BATCH_SIZE)
    return config
