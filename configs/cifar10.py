"""CIFAR-10 as photographs to tokenize and generate on two CPU cores or any accelerator.

    TFDS_DATA_DIR=... python -m imgen.train --config configs/cifar10.py --workdir runs/cifar10

64 codes an image (8x8) of 512.
"""

from ml_collections import ConfigDict

ARGS = ("smoke",)


def get_config(arg: str | None = None) -> ConfigDict:
    # fmt: off
    config = ConfigDict(
        dict(
            seed=0,
            mesh=dict(data=-1, fsdp=1, tensor=1),
            data=dict(
                source=dict(name="tfds", dataset="cifar10", data_dir=None),
                train=dict(split="train"),
                eval=dict(split="test", num_examples=2000),
                image_size=32,
                crop="none",
                flip=True,
                num_workers=0,
            ),
            tokenizer=dict(
                name="vq", patch=4, ch=64, ch_mult=(1,), num_res_blocks=2, z_channels=64, groups=8,
                mid_attention=False, attention_levels=(), codebook_size=512, codebook_dim=8,
            ),
            init=dict(tokenizer="", generator=""),
            generator=dict(
                plan="raster", plan_options=dict(), conditioning=dict(name="class", num_classes=10),
                width=192, depth=4, heads=6, hidden=512, dropout=0.0, cond_rope="identity",
            ),
            train=dict(
                tokenizer=dict(
                    steps=5000, batch_size=32, log_every=50, eval_every=1000, checkpoint_every=1000,
                    visualize_every=2500,
                    ema_decay=0.999, kmeans_init=True, ema_codebook=True, usage_decay=0.95,
                    restart_every=20, restart_threshold=0.05,
                    optimizer=dict(
                        learning_rate=3e-3, betas=(0.9, 0.99), clip_norm=1.0,
                        schedule=dict(name="cosine", warmup_steps=100),
                    ),
                ),
                generator=dict(
                    steps=7000, batch_size=32, log_every=50, eval_every=1000, checkpoint_every=1000,
                    visualize_every=1000, ema_decay=0.995,
                    optimizer=dict(
                        learning_rate=2e-3, weight_decay=0.05,
                        schedule=dict(name="cosine", warmup_steps=100),
                    ),
                    guidance=dict(scale=1.5),
                ),
            ),
        )
    )
    # fmt: on
    if arg == "smoke":
        config.data.eval.num_examples = 32
        config.tokenizer.update(ch=16, num_res_blocks=1, z_channels=16, codebook_size=64)
        config.generator.update(width=64, depth=2, heads=4, hidden=64)
        for stage in config.train.values():
            stage.update(steps=8, batch_size=16, log_every=2, eval_every=4, checkpoint_every=4)
        config.train.generator.num_samples = 4
    return config
