"""The whole main job in minutes on two CPU cores: tokenizer, then class-conditional generator.

    python -m imgen.train --config configs/quickstart.py --workdir runs/quickstart

Data: 32x32 coloured shapes, made on the fly (`imgen.data.shapes`). `:smoke` takes the same path in
seconds.
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
                source=dict(name="shapes", size=32),
                train=dict(split="train", num=40_000),
                eval=dict(split="test", num=960),
                image_size=32,
                crop="none",
                flip=False,
                num_workers=0,
            ),
            tokenizer=dict(
                name="vq", patch=4, ch=64, ch_mult=(1,), num_res_blocks=2, z_channels=64, groups=8,
                mid_attention=False, attention_levels=(), codebook_size=128, codebook_dim=8,
            ),
            init=dict(tokenizer="", generator=""),
            generator=dict(
                plan="raster", plan_options=dict(), conditioning=dict(name="class", num_classes=48),
                width=128, depth=4, heads=4, hidden=384, dropout=0.0, cond_rope="identity",
            ),
            train=dict(
                tokenizer=dict(
                    steps=900, batch_size=32, log_every=25, eval_every=300, checkpoint_every=300,
                    visualize_every=300, ema_decay=0.99,
                    kmeans_init=True, ema_codebook=True, usage_decay=0.95,
                    restart_every=20, restart_threshold=0.05,
                    optimizer=dict(
                        learning_rate=3e-3, betas=(0.9, 0.99),
                        schedule=dict(name="cosine", warmup_steps=50),
                    ),
                ),
                generator=dict(
                    steps=1800, batch_size=32, log_every=25, eval_every=600, checkpoint_every=600,
                    visualize_every=600, ema_decay=0.99,
                    optimizer=dict(
                        learning_rate=3e-3, weight_decay=0.05,
                        schedule=dict(name="cosine", warmup_steps=50),
                    ),
                    guidance=dict(scale=1.5), filters=dict(temperature=0.6),
                    num_samples=48,
                    sample_metrics=dict(name="shapes", num=480),
                ),
            ),
        )
    )
    # fmt: on
    if arg == "smoke":
        config.data.train.num = 256
        config.data.eval.num = 64
        config.tokenizer.update(ch=16, num_res_blocks=1, z_channels=16, codebook_size=64)
        config.generator.update(width=48, depth=2, heads=4, hidden=64)
        for stage in config.train.values():
            stage.update(steps=8, batch_size=16, log_every=2, eval_every=4)
        config.train.generator.num_samples = 4
        config.train.generator.sample_metrics.num = 8
    return config
