"""MAR on ImageNet: masked autoregression over continuous latents (repository LTH14/mar).

Moments of the centre crop and its mirror image, then training on them, drawn anew at each visit:

    for SPLIT in train validation; do
      python -m imgen.encode --workdir KL16_RUN --dataset imagenet2012 --split $SPLIT --out moments
    done
    python -m imgen.train --config configs/mar.py:b --workdir RUN \
        --config.data.source.path="('moments',)" --config.init.tokenizer=KL16_RUN

Sizes b, l, h. Published FID at 256x256 (800 epochs, 256 steps, 100 of diffusion): B 2.31, L 1.78, H 1.55 with
the guidance below. Not reproduced here. The repository's schedule: batches of 2048, 100 epochs of warm-up,
then constant. `imgen.sample --steps N --solver_steps N` takes fewer steps of a trained run.
`smoke` trains a narrow one on shapes in seconds.
"""

from ml_collections import ConfigDict

from configs import imagenet
from imgen.config import choose
from imgen.generators.denoisers import MAR as HEADS
from imgen.generators.presets import MAR, MAR_MODEL

SIZES = ("b", "l", "h")
ARGS = (*SIZES, "smoke")
IMAGES = 1_281_167
EPOCHS, WARMUP_EPOCHS, BATCH_SIZE = 800, 100, 2048
GUIDANCE = {"b": 2.9, "l": 3.0, "h": 3.2}  # README
BUFFER = 64  # slots of the class


def get_config(arg: str | None = None) -> ConfigDict:
    size, options = choose(arg, SIZES, __file__)
    smoke = "smoke" in options
    config = imagenet.get_config("llamagen_b,smoke" if smoke else "llamagen_b")
    config.generator = dict(
        **MAR_MODEL,
        **MAR[size.upper()],
        head_options=HEADS[size.upper()],
        conditioning=dict(config.generator.conditioning, copies=BUFFER),
        remat="none" if size == "b" else "full",
        dtype="bfloat16",
    )
    stage = config.train.generator
    # Stored moments are drawn from as they are read.
    stage.update(ema_decay=0.9999, sample_latents=smoke)
    stage.optimizer = dict(
        name="adamw", learning_rate=1e-4 * BATCH_SIZE / 256, betas=(0.9, 0.95), weight_decay=0.02,
        clip_norm=3.0,
        schedule=dict(name="constant", warmup_steps=0, warmup_share=WARMUP_EPOCHS / EPOCHS),
    )  # fmt: skip
    stage.guidance = dict(scale=GUIDANCE[size], schedule="linear_after")
    stage.sampling = dict(steps=256, solver_steps=100)
    if smoke:
        config.tokenizer = dict(
            name="kl", patch=4, ch=16, ch_mult=(1,), num_res_blocks=1, groups=4, z_channels=4,
            embed_dim=4, encoder_attention_levels=(),
        )  # fmt: skip
        config.data.flip = True
        config.generator.update(
            width=32, dtype="float32", head_options=dict(width=32, depth=1),
            backbone_options=dict(depth=(1, 1), heads=2, hidden=64),
        )  # fmt: skip
        config.generator.conditioning.copies = 4
        stage.sampling = dict(steps=4, solver_steps=4)
    else:
        config.tokenizer = dict(name="kl16", dtype="bfloat16")
        stage.update(steps=EPOCHS * (IMAGES // BATCH_SIZE), batch_size=BATCH_SIZE)
    return config
