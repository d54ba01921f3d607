"""NAR on ImageNet: next-neighbour order, published sizes and recipe (arXiv 2503.10696; `NAR-images`).

    python -m imgen.train --config configs/nar.py:nar_b --workdir RUN \
        --config.data.source.path="('codes_1.1',)" --config.init.tokenizer=VQ16_RUN

Codes as in configs/imagenet.py (NAR trains on ten crops of range 1.1). Published FID at 256x256 (300 epochs,
guidance 2.0, 31 calls an image): B 4.65, M 3.27, L 3.06, XL 2.70, XXL 2.58. Not reproduced here yet.
`smoke` as in configs/imagenet.py.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

from imgen.errors import UserError
from imgen.generators.presets import NAR

SIZES = tuple(f"nar_{size.lower()}" for size in NAR)
ARGS = (*SIZES, "smoke")
EPOCHS_AT = (1 / 2, 2 / 3, 5 / 6)  # 150, 200 and 250 of 300


def get_config(arg: str | None = None) -> ConfigDict:
    parts = (arg or "nar_b").split(",")
    chosen = [part for part in parts if part in SIZES]
    if len(chosen) != 1:
        raise UserError(f"configs/nar.py:ARG names one of {', '.join(SIZES)}")
    base = runpy.run_path(str(Path(__file__).with_name("imagenet.py")))["get_config"]
    config = base(",".join(["llamagen_b", *(part for part in parts if part not in SIZES)]))
    config.generator.plan = "nar"
    if "smoke" not in parts:
        size = chosen[0].removeprefix("nar_").upper()
        config.generator.update(NAR[size], remat="none" if size in "BML" else "dots")
    stage = config.train.generator
    stage.optimizer.schedule = dict(name="step", factor=0.2, at=EPOCHS_AT)
    stage.guidance.scale = 2.0
    return config
