"""Instella-T2I: 128 tokens of 64 bits from text (arXiv 2506.21022; AMD's repository).

    python -m imgen.train --config configs/instella.py:instella_ar --workdir RUN \
        --config.data.source.path="('codes',)"

instella_ar predicts token by token, instella_diff all bits at once by diffusion (20 steps). Published GenEval
at 1024 px: 0.46 and 0.64. Not reproduced here: the language model whose hidden states condition it is not
there yet, so the recipe builds but has nothing to train on. The codes are those of configs/binary_1d.py. The
batch is that of one 8-GPU node; stage 2 only changes the data.
"""

from ml_collections import ConfigDict

from configs import imagenet
from imgen.generators.presets import INSTELLA, INSTELLA_DIFFUSION

SIZES = ("instella_ar", "instella_diff")
ARGS = SIZES


def get_config(arg: str | None = None) -> ConfigDict:
    base = imagenet.get_config
    config = base("llamagen_b")
    config.data.image_size = 512
    config.tokenizer = dict(name="binary_1d", image_size=512, position_scale=1024, dtype="bfloat16")
    text = dict(name="layer_text")
    if arg == "instella_diff":
        config.generator = dict(
            plan="bit_diffusion", plan_options=dict(), conditioning=text, **INSTELLA_DIFFUSION,
            remat="full", dtype="bfloat16",
        )  # fmt: skip
    else:
        config.generator.update(INSTELLA, remat="full")
        config.generator.conditioning = text
    stage = config.train.generator
    stage.update(steps=2_000_000, batch_size=4096, guidance=dict(scale=8.5))
    stage.optimizer.update(betas=(0.9, 0.999), weight_decay=0.0)
    stage.optimizer.schedule = dict(name="constant", warmup_steps=1000)
    return config
