"""Your own pictures: a tokenizer, then a generator, on a folder.

    python -m imgen.train --config configs/folder.py --config.data.source.path="/my pictures" --workdir RUN

The folder holds class folders, a folder for each split, a captions file, or just images, for which the
generator is unconditional (`imgen.data.folder.Folder`). Number of classes, image size (up to 64) and crop are
found from the images and said; each can be set, e.g. --config.data.image_size=128 with
--config.tokenizer.patch=8. What looks the same in a mirror may be mirrored: --config.data.flip=True.
Every 20th image is held out where there is no folder of its own for that. `:smoke` takes the same path in
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
                source=dict(
                    name="folder", path="", test_every=20, background="white", encoding=None,
                ),
                train=dict(split="train"),
                eval=dict(split="eval", num_examples=2000),
                image_size=None, crop=None, class_names=None,  # as the images say
                flip=False,
                num_workers=0, max_bad_share=0.1,  # one broken file of a dozen is left out
            ),
            tokenizer=dict(
                name="vq", patch=4, ch=64, ch_mult=(1,), num_res_blocks=2, z_channels=64, groups=8,
                mid_attention=False, attention_levels=(), codebook_size=512, codebook_dim=8,
            ),
            init=dict(tokenizer="", generator=""),
            generator=dict(
                plan="raster", plan_options=dict(), conditioning=dict(name=None, num_classes=None),
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
                ),
            ),
        )
    )
    # fmt: on
    if arg == "smoke":
        config.tokenizer.update(ch=16, num_res_blocks=1, z_channels=16, codebook_size=64)
        config.generator.update(width=64, depth=2, heads=4, hidden=64)
        for stage in config.train.values():
            stage.update(steps=8, batch_size=16, log_every=2, eval_every=4, checkpoint_every=4)
        config.train.generator.num_samples = 4
    return config
