"""LlamaGen's VQ tokenizers on ImageNet: published layout, losses and recipe (`tokenizer/.../vq_train.py`).

    python -m imgen.train --config configs/vq.py:vq16 --workdir RUN \
        --config.train.tokenizer.lpips_weights=lpips_vgg16.safetensors

Published on the validation set at 256x256: VQ-16 rFID 2.19, PSNR 20.79; VQ-8 rFID 0.59, PSNR 24.45. Not
reproduced here yet. Without a weights file the perceptual term is left out, and the figures with it.
`smoke` cuts the networks to a minute on a CPU, on shapes made on the fly.
"""

from ml_collections import ConfigDict

from imgen.errors import UserError

IMAGES = 1_281_167
EPOCHS = 40
BATCH_SIZE = 128
SIZES = ("vq16", "vq8")
ARGS = (*SIZES, "smoke")


def get_config(arg: str | None = None) -> ConfigDict:
    parts = (arg or "vq16").split(",")
    chosen = [part for part in parts if part in SIZES]
    if len(chosen) != 1:
        raise UserError(f"configs/vq.py:ARG names one of {', '.join(SIZES)}")

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
                train=dict(split="train"),
                eval=dict(split="validation", num_examples=10_000),
                image_size=256,
                crop="random",
                flip=True,
                num_workers=8,
            ),
            tokenizer=dict(name=chosen[0], dtype="bfloat16"),
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
    if "smoke" in parts:
        config.data = dict(
            source=dict(name="shapes", size=64),
            train=dict(split="train", num=64),
            eval=dict(split="test", num=8),
            image_size=64,
            crop="random",
            flip=True,
            num_workers=0,
        )
        config.tokenizer.update(
            ch=8, num_res_blocks=1, z_channels=8, groups=4, codebook_size=64, dtype="float32"
        )
        config.train.tokenizer.update(steps=4, batch_size=8, log_every=1)
        config.train.tokenizer.adversary.start = 3
    return config
