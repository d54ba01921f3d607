"""ELM: language models of binary codes in sub-codes, published sizes and recipe (LMforImageGeneration).

    python -m imgen.train --config configs/elm.py:elm_l --workdir RUN --config.data.source.path="('codes',)"

Bits of a 16x16 binary tokenizer, "2-10" being two sub-codes of ten. Published FID at 256x256 without
guidance: L 2-10 15.95, XL 2-10 12.70, XXL 2-12 10.11; with it 2B 2-12 1.54. Not reproduced here: the
tokenizer isn't built yet, so the recipe builds but has no codes to train on. `masked` is the masked language
model instead of the autoregressive one (10 steps), with the same output layer: the published one has its own.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

from imgen.errors import UserError
from imgen.generators.presets import ELM

BITS = {"l": 20, "xl": 20, "xxl": 24, "2b": 24}  # two sub-codes of 10 or 12
TOP_K = {
    20: 1000,
    24: 2048,
}  # of 1024 as in the released script; of 4096 the paper's "half or more"
SIZES = tuple(f"elm_{size}" for size in BITS)
ARGS = (*SIZES, "masked")
IMAGES, EPOCHS, BATCH_SIZE = 1_281_167, 400, 256


def get_config(arg: str | None = None) -> ConfigDict:
    parts = (arg or "elm_l").split(",")
    chosen = [part for part in parts if part in SIZES]
    if len(chosen) != 1:
        raise UserError(f"configs/elm.py:ARG names one of {', '.join(SIZES)}")
    size = chosen[0].removeprefix("elm_")
    base = runpy.run_path(str(Path(__file__).with_name("imagenet.py")))["get_config"]
    config = base("llamagen_b")
    config.tokenizer = dict(name="codes", kind="bits", grid=(16, 16), size=BITS[size])
    config.generator.update(
        ELM[size.upper()], head="subcodes", head_options=dict(parts=2), remat="dots"
    )
    stage = config.train.generator
    stage.update(
        steps=EPOCHS * (IMAGES // BATCH_SIZE),
        batch_size=BATCH_SIZE,
        ema_decay=0.9999,
        guidance=dict(scale=4.0, schedule="linear_after"),
        filters=dict(top_k=TOP_K[BITS[size]]),
    )
    if "masked" in parts:
        config.generator.update(plan="masked", plan_options=dict(steps=10))
    return config
