"""PAR on ImageNet: regions that grow together, published sizes and recipe (arXiv 2412.15119).

    python -m imgen.train --config configs/par.py:par_xl --workdir RUN \
        --config.data.source.path="('codes_1.1','codes_1.05')" --config.init.tokenizer=VQ16_RUN

Codes as in configs/imagenet.py, at 384 px; `n16` cuts 16 regions instead of 4. Published FID at 384x384, 4
regions, 147 calls, guidance in brackets: L 3.76 (1.60), XL 2.61 (1.50), XXL 2.35 (1.435), 3B 2.29 (1.345).
Not reproduced here yet. The paper's schedule; the released script keeps the rate constant.
"""

from ml_collections import ConfigDict

from configs import imagenet
from imgen.errors import UserError

# size: (global batch, learning rate, guidance of the published figure).
RECIPES = {
    "l": (256, 1e-4, 1.60),
    "xl": (256, 1e-4, 1.50),
    "xxl": (512, 2e-4, 1.435),
    "3b": (512, 2e-4, 1.345),
}
SIZES = tuple(f"par_{size}" for size in RECIPES)
ARGS = (*SIZES, "n16", "smoke")
IMAGES, EPOCHS, WARMUP_EPOCHS = 1_281_167, 300, 15


def get_config(arg: str | None = None) -> ConfigDict:
    parts = (arg or "par_l").split(",")
    chosen = [part for part in parts if part in SIZES]
    if len(chosen) != 1:
        raise UserError(f"configs/par.py:ARG names one of {', '.join(SIZES)}")
    size = chosen[0].removeprefix("par_")
    batch_size, learning_rate, guidance = RECIPES[size]
    base = imagenet.get_config
    smoke = ["smoke"] if "smoke" in parts else []
    config = base(",".join([f"llamagen_{size}", "384", *smoke]))
    config.generator.plan = "par"
    config.generator.plan_options = dict(groups=16 if "n16" in parts else 4)
    stage = config.train.generator
    stage.guidance.scale = guidance
    stage.optimizer.learning_rate = learning_rate
    if not smoke:
        a_epoch = IMAGES // batch_size
        stage.update(steps=EPOCHS * a_epoch, batch_size=batch_size)
        stage.optimizer.schedule = dict(name="cosine", warmup_steps=WARMUP_EPOCHS * a_epoch)
    return config
