"""The KL autoencoder of MAR and xAR, trained as latent diffusion trains its own (kl-f16).

    python -m imgen.train --config configs/kl.py:kl16 --workdir RUN \
        --config.train.tokenizer.lpips_weights=lpips_vgg.safetensors

kl16: 16x16 latents of 16 channels, LDM's published loss with attention where MAR's model has it. LDM's
rate is 4.5e-6 an image of the global batch; its losses are sums over an image's values, ours means, which
Adam does not notice. LDM: rFID 0.87, PSNR 24.08. Not reproduced here. The scale of the latents is measured
in training. `smoke` as in configs/vq.py.
"""

from ml_collections import ConfigDict

from configs import vq
from imgen.config import choose

SIZES = ("kl16",)
ARGS = (*SIZES, "smoke")
BATCH_SIZE = 96


def get_config(arg: str | None = None) -> ConfigDict:
    _, options = choose(arg, SIZES, __file__)
    config = vq.get_config(",".join(["vq16", *options]))
    config.tokenizer = dict(name="kl16", dtype="bfloat16")
    stage = config.train.tokenizer
    stage.reconstruction = "l1"
    stage.adversary = dict(
        discriminator="patchgan", weight=0.5, disc_weight=1.0, start=50_001, adaptive=True,
        adaptive_most=1e4, adaptive_sums=True,
    )  # fmt: skip
    for name in ("optimizer", "disc_optimizer"):
        stage[name].update(learning_rate=4.5e-6 * BATCH_SIZE, betas=(0.5, 0.9))
        with config.ignore_type():
            stage[name].clip_norm = None
    if "smoke" in options:
        config.tokenizer = dict(name="kl16", embed_dim=4, encoder_attention_levels=(), **vq.SMALL)
        stage.adversary = dict(stage.adversary, start=3, discriminator=vq.SMALL_PATCHGAN)
    else:
        stage.update(steps=443_000, batch_size=BATCH_SIZE)
    return config
