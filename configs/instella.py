"""Instella-T2I's autoregressive model: 128 tokens of 64 bits from text (arXiv 2506.21022; AMD's repository).

    python -m imgen.train --config configs/instella.py --workdir RUN --config.data.source.path="('codes',)"

Published GenEval at 1024 px: 0.46. Not reproduced here: neither the 1-D binary tokenizer nor the language
model whose hidden states condition it is there yet, so the recipe builds but has nothing to train on. The
batch is that of one 8-GPU node; stage 2 only changes the data.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

from imgen.generators.presets import INSTELLA


def get_config() -> ConfigDict:
    base = runpy.run_path(str(Path(__file__).with_name("imagenet.py")))["get_config"]
    config = base("llamagen_b")
    config.data.image_size = 512
    config.tokenizer = dict(name="codes", kind="bits", grid=(128,), size=64)
    config.generator.update(INSTELLA, remat="full")
    config.generator.conditioning = dict(name="layer_text")
    stage = config.train.generator
    stage.update(steps=2_000_000, batch_size=4096, guidance=dict(scale=8.5))
    stage.optimizer.update(betas=(0.9, 0.999), weight_decay=0.0)
    stage.optimizer.schedule = dict(name="constant", warmup_steps=1000)
    return config
