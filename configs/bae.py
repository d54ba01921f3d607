"""ELM's binary autoencoder: 16x16 positions of 16, 20 or 24 bits (Binary Latent Diffusion's code).

    python -m imgen.train --config configs/bae.py:bae_20 --workdir RUN \
        --config.train.tokenizer.lpips_weights=lpips_vgg.safetensors

The losses are those of the released code (L1, LPIPS, an adaptive hinge adversary of weight at most 1 after
step 30,001, its optimiser resting until then); so are a million steps of 256 images. Its rate for that batch
is not published: 1e-4 is ours. The average's decay of 0.995 every ten steps is 0.9995 a step. `smoke` as in
configs/vq.py.
"""

from ml_collections import ConfigDict

from configs import vq
from imgen.config import choose

SIZES = ("bae_20", "bae_16", "bae_24")
ARGS = (*SIZES, "smoke")


def get_config(arg: str | None = None) -> ConfigDict:
    size, options = choose(arg, SIZES, __file__)
    config = vq.get_config(",".join(["vq16", *options]))
    config.tokenizer = dict(name="bae", bits=int(size.removeprefix("bae_")), dtype="bfloat16")
    stage = config.train.tokenizer
    # The published loss is of images in [0, 1], ours of [-1, 1].
    stage.update(reconstruction="l1", reconstruction_weight=0.5, ema_decay=0.9995)
    stage.adversary = dict(
        discriminator="patchgan", weight=1.0, start=30_002, optimizer_waits=True, adaptive=True,
        adaptive_most=1.0,
    )  # fmt: skip
    if "smoke" in options:
        config.tokenizer.update(**vq.SMALL, z_channels=8, attention_levels=(), dtype="float32")
        stage.adversary = dict(stage.adversary, start=3, discriminator=vq.SMALL_PATCHGAN)
    else:
        stage.update(steps=1_000_000, batch_size=256)
    return config
