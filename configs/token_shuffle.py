"""Token-Shuffle 2.7B: three stages of growing resolution (arXiv 2504.17789; no official code).

    python -m imgen.train --config configs/token_shuffle.py:stage2 --workdir RUN \
        --config.init.generator=RUN_OF_STAGE1 --config.data.source.path="('codes_1024',)"

stage1: 512 px, every code a slot. stage2: 1024 px, windows of 2 x 2. stage3: 2048 px, windows and a z-loss.
A stage starts from the weights of the one before (init.generator; what is new, the windows' layers, starts
fresh). No data source gives text tokens yet: the recipe builds, and `smoke` trains it on classes.
Learning rate and z-loss weight are not all published; see the comments.
"""

from ml_collections import ConfigDict

from configs import imagenet
from imgen.errors import UserError
from imgen.generators.presets import TOKEN_SHUFFLE

# stage: (image size, window, z-loss). The z-loss weight is Chameleon's.
STAGES = {"stage1": (512, 1, 0.0), "stage2": (1024, 2, 0.0), "stage3": (2048, 2, 1e-5)}
SIZES = tuple(STAGES)
ARGS = (*SIZES, "smoke")


def get_config(arg: str | None = None) -> ConfigDict:
    parts = (arg or "stage2").split(",")
    chosen = [part for part in parts if part in SIZES]
    if len(chosen) != 1:
        raise UserError(f"configs/token_shuffle.py:ARG names one of {', '.join(SIZES)}")
    image_size, window, z_loss = STAGES[chosen[0]]
    base = imagenet.get_config
    config = base("llamagen_b" + (",smoke" if "smoke" in parts else ""))
    config.generator.update(plan="token_shuffle", window=window)
    stage = config.train.generator
    stage.z_loss = z_loss
    stage.guidance = dict(scale=7.5, schedule="half_linear")
    stage.optimizer.learning_rate = 2e-4
    if "smoke" not in parts:
        config.data.image_size = image_size
        config.generator.update(TOKEN_SHUFFLE, remat="dots")
        config.generator.conditioning = dict(name="text_tokens")
    return config
