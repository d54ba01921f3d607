"""FlexTok: 1 to 256 tokens an image, with a flow-matching decoder over a frozen KL autoencoder's latents.

    python -m imgen.train --config configs/flextok.py:flextok_d12_d12 --workdir RUN \
        --config.init.parts.vae=KL_RUN

KL_RUN trained configs/flextok.py:vae, an autoencoder of 8x8 pixels a position and 16 channels. FlexTok's
training code is not released: rate, batch and length here follow what is said of the paper, the rate for a
plain parametrisation (it used muP). REPA, which FlexTok was trained with, needs a teacher's features and is
off: name their file in data.train.teacher, their width in tokenizer.repa.features. Published rFID: d12-d12
4.20, d18-d18 1.61, d18-d28 1.45. Not reproduced here. `smoke` works on pixels, without an autoencoder.
"""

from ml_collections import ConfigDict

from configs import kl, vq
from imgen.config import choose

VAE = dict(
    name="kl", ch_mult=(1, 2, 4, 4), z_channels=16, embed_dim=16, encoder_attention_levels=()
)  # float32, as published
SIZES = ("flextok_d12_d12", "flextok_d18_d18", "flextok_d18_d28", "vae")
ARGS = (*SIZES, "smoke")


def get_config(arg: str | None = None) -> ConfigDict:
    name, options = choose(arg, SIZES, __file__)
    if name == "vae":
        base = kl.get_config
        config = base(",".join(["kl16", *options]))
        if "smoke" not in options:
            config.tokenizer = VAE
        return config
    base = vq.get_config
    config = base(",".join(["vq16", *options]))
    config.tokenizer = dict(name=name, vae=VAE, remat=True, dtype="bfloat16")
    config.init.parts = dict(vae="")
    stage = config.train.tokenizer
    del stage["adversary"], stage["disc_optimizer"]
    stage.update(ema_decay=0.9999)
    stage.optimizer = dict(
        name="adamw", learning_rate=2e-4, betas=(0.9, 0.99), weight_decay=0.05, clip_norm=1.0,
        schedule=dict(name="cosine", warmup_steps=4_000),
    )  # fmt: skip
    if "smoke" in options:
        config.tokenizer = dict(
            name=name, image_size=32, patch=8, registers=8, encoder_width=32, encoder_depth=2,
            decoder_width=32, decoder_depth=2, head_dim=16, steps=4,
        )  # fmt: skip
        config.init.parts = dict()
        stage.optimizer.schedule.warmup_steps = 1
        stage.num_pictures = 4
    else:
        stage.update(steps=250_000, batch_size=2048)
    return config
