"""RandAR on ImageNet: random orders, decoded in 88 parallel steps (repository ziqipang/RandAR).

    python -m imgen.train --config configs/randar.py:randar_l --workdir RUN \
        --config.data.source.path="('codes',)" --config.init.tokenizer=VQ16_RUN

Codes of the centre crop and its mirror image (imgen.encode without --ten_crop), which the author found better
than ten crops. Published FID at 256x256 (88 steps): L 2.55, XL 2.25, XXL 2.15. Not reproduced here yet.
The repository's schedule, and its rule of leaving out updates of a gradient norm above 10.
"""

from ml_collections import ConfigDict

from configs import imagenet
from imgen.errors import UserError

SIZES = ("randar_l", "randar_xl", "randar_xxl")
ARGS = (*SIZES, "smoke")


def get_config(arg: str | None = None) -> ConfigDict:
    parts = (arg or "randar_l").split(",")
    chosen = [part for part in parts if part in SIZES]
    if len(chosen) != 1:
        raise UserError(f"configs/randar.py:ARG names one of {', '.join(SIZES)}")
    base = imagenet.get_config
    size, smoke = chosen[0].removeprefix("randar_"), "smoke" in parts
    config = base(f"llamagen_{size}" + (",smoke" if smoke else ""))
    config.generator.plan = "random"
    stage = config.train.generator
    stage.sampling = dict(steps=8 if smoke else 88)
    stage.guidance = dict(scale=4.0, start=1.0, schedule="linear_before")
    stage.optimizer.learning_rate = 4e-4
    stage.optimizer.skip_norm = 10.0
    if not smoke:
        stage.update(steps=360_000, batch_size=1024)
        stage.optimizer.schedule = dict(name="cosine", warmup_steps=50_000, final=0.05)
    return config
