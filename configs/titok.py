"""TiTok: 32 to 256 tokens an image, in one stage or two (1d-tokenizer's configs).

Two stages, for titok_l32, titok_b64 and titok_s128:

    python -m imgen.train --config configs/titok.py:titok_l32,stage1 --workdir RUN1 \
        --config.init.parts.proxy=MASKGIT_VQGAN_RUN
    python -m imgen.train --config configs/titok.py:titok_l32 --workdir RUN2 --config.init.tokenizer=RUN1

Stage 1 learns to predict the codes of a trained MaskGIT-VQGAN (configs/vq.py:maskgit_vqgan), stage 2
trains the decoder on pixels. One stage, as TA-TiTok and the newer checkpoints: titok_bl64, titok_bl128,
titok_sl256 (VQ) and titok_ll32_vae, titok_bl64_vae, titok_bl128_vae. The published perceptual loss
compares logits of ConvNeXt-S, which is not built: LPIPS, where a weights file is given, stands for it.
Published rFID: L-32 2.21, B-64 1.70, S-128 1.71; BL-64 2.06, BL-128 1.49, SL-256 1.03; VAE 1.61, 1.25,
0.84. Not reproduced here. `smoke` is for seconds on drawn shapes; the proxy of the two stages is then
configs/vq.py:maskgit_vqgan,smoke.
"""

from ml_collections import ConfigDict

from configs import vq
from imgen.config import choose
from imgen.errors import UserError

TWO_STAGES = ("titok_l32", "titok_b64", "titok_s128")
VQ = ("titok_bl64", "titok_bl128", "titok_sl256")
VAE = ("titok_ll32_vae", "titok_bl64_vae", "titok_bl128_vae")
SIZES = (*TWO_STAGES, *VQ, *VAE)
ARGS = (*SIZES, "stage1", "smoke")
RANGE = 0.5  # the published losses are of images in [0, 1], ours of [-1, 1]
# No decay on tokens, embeddings, norms and biases.
DECAY = ((r"embed", 0.0), (r"kernel$", 1.0), (".*", 0.0))


def get_config(arg: str | None = None) -> ConfigDict:
    name, options = choose(arg, SIZES, __file__)
    if name not in TWO_STAGES and "stage1" in options:
        raise UserError(f"configs/titok.py: stage1 is for {', '.join(TWO_STAGES)}")
    base = vq.get_config
    config = base("maskgit_vqgan,smoke" if "smoke" in options else "vq16")
    proxy = config.tokenizer.to_dict()  # of the smoke variant; MaskGIT's own is the models' default
    config.tokenizer = dict(name=name, dtype="bfloat16")
    stage = config.train.tokenizer
    optimizer = dict(
        name="adamw", learning_rate=1e-4, betas=(0.9, 0.999), weight_decay=1e-4, decay=DECAY,
        clip_norm=1.0, schedule=dict(name="cosine", warmup_steps=10_000, final=0.1),
    )  # fmt: skip
    stage.update(
        batch_size=256,
        ema_decay=0.999,
        reconstruction="l2",
        reconstruction_weight=RANGE**2,
        optimizer=optimizer,
    )
    stage.disc_optimizer = optimizer
    adversary = dict(
        discriminator="nlayer", disc_weight=1.0, optimizer_waits=True, lecam_weight=0.001,
        d_loss="hinge", g_loss="hinge",
    )  # fmt: skip
    if "stage1" in options:
        config.tokenizer.update(head="codes")
        config.init.parts = dict(proxy="")
        stage.update(steps=1_000_000)
        stage.optimizer.betas = (0.9, 0.99)
    elif name in TWO_STAGES:
        config.init.parts = dict(proxy="")
        stage.update(steps=500_000, perceptual_weight=0.1)
        stage.adversary = dict(weight=0.01, start=20_000, **adversary)
        for which in ("optimizer", "disc_optimizer"):
            stage[which].schedule.warmup_steps = 5_000
    else:
        stage.update(steps=650_000, perceptual_weight=1.0)
        stage.adversary = dict(weight=0.1, start=200_000, **adversary)
        if name in VQ:
            stage.online_clustering = True
    if "smoke" in options:
        size = dict(
            encoder_size=(32, 1, 2), decoder_size=(32, 1, 2), encoder_patch=4, decoder_patch=4
        )
        config.tokenizer.update(**size, image_size=16, num_latents=8, dtype="float32")
        if name in TWO_STAGES:
            config.tokenizer.proxy = proxy
        stage.update(steps=4, batch_size=8)
        small = dict(name="nlayer", hidden_channels=8, num_stages=1, groups=4)
        stage.adversary = dict(stage.adversary, start=3, discriminator=small)
        for which in ("optimizer", "disc_optimizer"):
            stage[which].schedule.warmup_steps = 1
    if "stage1" in options:  # it makes codes, no pictures
        del stage["adversary"], stage["disc_optimizer"]
    return config
