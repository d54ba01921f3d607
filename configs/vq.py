"""VQ tokenizers on ImageNet: LlamaGen's, taming's and MaskGIT's layouts, losses and recipes.

    python -m imgen.train --config configs/vq.py:vq16 --workdir RUN \
        --config.train.tokenizer.lpips_weights=lpips_vgg.safetensors

vq16, vq8: LlamaGen (`tokenizer/tokenizer_image/vq_train.py`). taming_vqgan (1024 codes), taming_vqgan_16384,
both f16. maskgit_vqgan: its perceptual loss compares ResNet features and is not built; LPIPS stands for it.
Published on the validation set at 256x256: VQ-16 rFID 2.19, PSNR 20.79; VQ-8 rFID 0.59, PSNR 24.45; taming
rFID 7.94 and 4.98; MaskGIT 2.28. Not reproduced here. Without a weights file the perceptual term is left
out, and the figures with it.
`smoke` cuts the networks to a minute on a CPU, on shapes made on the fly.
"""

from ml_collections import ConfigDict

from imgen.config import choose

IMAGES = 1_281_167
EPOCHS = 40
# Of the smoke variants: most of their time goes to compiling layers.
SMALL_PATCHGAN = dict(name="patchgan", ndf=8, n_layers=1)
SMALL = dict(patch=4, ch=8, ch_mult=(1,), num_res_blocks=1, groups=4)
BATCH_SIZE = 128
SIZES = ("vq16", "vq8", "taming_vqgan", "taming_vqgan_16384", "maskgit_vqgan")
ARGS = (*SIZES, "smoke")


def get_config(arg: str | None = None) -> ConfigDict:
    name, options = choose(arg, SIZES, __file__)

    def adam() -> dict:
        return dict(
            name="adam", learning_rate=1e-4, betas=(0.9, 0.95), clip_norm=1.0,
            schedule=dict(name="constant"),
        )  # fmt: skip

    config = ConfigDict(
        dict(
            seed=0,
            mesh=dict(data=-1, fsdp=1, tensor=1),
            data=dict(
                source=dict(name="tfds", dataset="imagenet2012", data_dir=None),
                train=dict(split="train", teacher=""),
                eval=dict(split="validation", num_examples=10_000),
                image_size=256,
                crop="random",
                flip=True,
                num_workers=8,
            ),
            tokenizer=dict(name=name, dtype="bfloat16"),
            init=dict(tokenizer=""),
            train=dict(
                tokenizer=dict(
                    steps=EPOCHS * (IMAGES // BATCH_SIZE),
                    batch_size=BATCH_SIZE,
                    log_every=100,
                    eval_every=5_000,
                    checkpoint_every=5_000,
                    visualize_every=5_000,
                    reconstruction="l2",
                    lpips_weights="",
                    adversary=dict(discriminator="patchgan", weight=0.5, start=20_000),
                    ema_decay=0.0,
                    microbatches=1,
                    optimizer=adam(),
                    disc_optimizer=adam(),
                ),
            ),
        )
    )
    stage = config.train.tokenizer
    if name.startswith("taming"):
        taming(stage, *((0.8, 3) if name == "taming_vqgan" else (0.75, 2)))
    if name == "maskgit_vqgan":
        maskgit(stage)
    if "smoke" in options:
        config.data = dict(
            source=dict(name="shapes", size=32),
            train=dict(split="train", num=64, teacher=""),
            eval=dict(split="test", num=8),
            image_size=32,
            crop="random",
            flip=True,
            num_workers=0,
        )
        config.tokenizer.update(**SMALL, codebook_size=64, codebook_dim=8, dtype="float32")
        small = SMALL_PATCHGAN
        if name == "maskgit_vqgan":
            config.data.source.size = config.data.image_size = 16
            small = dict(stage.adversary.discriminator, max_ch=16)
        else:
            config.tokenizer.update(z_channels=8, attention_levels=(), mid_attention=False)
        stage.update(steps=4, batch_size=8, log_every=1, num_pictures=4)
        stage.adversary = dict(stage.adversary, start=3, discriminator=small)
    return config


def taming(stage: ConfigDict, weight: float, n_layers: int) -> None:
    """Taming's losses: its rate is for the global batch, its adversary acts from the start."""
    stage.reconstruction = "l1"
    stage.adversary = dict(
        discriminator=dict(name="patchgan", n_layers=n_layers),
        weight=weight,
        disc_weight=1.0,
        start=0,
        adaptive=True,
    )
    for name in ("optimizer", "disc_optimizer"):
        stage[name].update(learning_rate=4.5e-6 * stage.batch_size, betas=(0.5, 0.9))
        stage[name] = dict(stage[name], clip_norm=None)


def maskgit(stage: ConfigDict) -> None:
    stage.update(steps=1_000_000, batch_size=256, perceptual_weight=0.1, ema_decay=0.999)
    # Its images are in [0, 1], ours in [-1, 1]: squared errors are 4 times as large here, squared gradients
    # by images a quarter. Its discriminator's loss is the sum of two cross entropies, "vanilla" their mean.
    stage.reconstruction_weight = 0.25
    stage.adversary = dict(
        discriminator=dict(name="stylegan", blur=(1, 3, 3, 1)), weight=0.1, start=0,
        d_loss="vanilla", g_loss="non_saturating", disc_weight=2.0, r1_weight=4 * 10.0 / 2,
    )  # fmt: skip
    for name in ("optimizer", "disc_optimizer"):
        stage[name] = dict(stage[name], betas=(0.0, 0.99), clip_norm=None)
