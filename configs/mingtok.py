"""MingTok: one continuous latent space for understanding and generation, 256 tokens of 32 channels.

    python -m imgen.train --config configs/mingtok.py:mingtok_small --workdir RUN \
        --config.train.tokenizer.lpips_weights=lpips_vgg.safetensors

mingtok: the released MingTok-Vision, 512x512 pixels, 697.7 M parameters. mingtok_small: ours for 256x256,
62.7 M. No training code is released: but for the mean absolute error of the pixels, losses and weights are
our choice, and so are rate, batch and length. Without a teacher training is on pixels only. `teacher` adds
the distillation of a frozen model's patch features, by their cosine: name their file in data.train.teacher
(`imgen.data.teacher`) and their width in tokenizer.semantic_target.features. tokenizer.mask_ratio hides
patches from the encoder; it is 0 here, though the model card has masking, whose share it doesn't tell. The
mean and the scale of the latents are measured in training. Ming's own generator, which reads the semantic
features of the latents it has drawn, is not built: flow heads (generator.head=flow) train on the latents.
Published on the validation set at 512x512: rFID 0.54, PSNR 30.77, LPIPS 0.14. Not reproduced here.
`smoke` as in configs/vq.py.
"""

from ml_collections import ConfigDict

from configs import vq
from imgen.config import choose

SIZES = ("mingtok", "mingtok_small")
ARGS = (*SIZES, "teacher", "smoke")


def get_config(arg: str | None = None) -> ConfigDict:
    name, options = choose(arg, SIZES, __file__)
    base = vq.get_config
    config = base("vq16,smoke" if "smoke" in options else "vq16")
    config.tokenizer = dict(name=name, mask_ratio=0.0, remat=True, dtype="bfloat16")
    stage = config.train.tokenizer
    del stage["adversary"], stage["disc_optimizer"]
    stage.update(reconstruction="l1", perceptual_weight=1.0, ema_decay=0.999)
    stage.optimizer = dict(
        name="adamw", learning_rate=1e-4, betas=(0.9, 0.95), weight_decay=0.05, clip_norm=1.0,
        schedule=dict(name="cosine", warmup_steps=10_000),
    )  # fmt: skip
    if "smoke" in options:
        config.tokenizer.update(
            image_size=32, patch=8, pixel_patch=4, channels=8, encoder_width=32, encoder_depth=1,
            semantic_width=32, semantic_depth=1, pixel_width=32, pixel_depth=1, head_dim=16,
            remat=False, dtype="float32",
        )  # fmt: skip
        stage.optimizer.schedule.warmup_steps = 1
        stage.num_pictures = 4
    else:
        config.data.image_size = 512 if name == "mingtok" else 256
        stage.update(steps=500_000, batch_size=256)
    if "teacher" in options:
        config.tokenizer.semantic_target = dict(features=1024, weight=1.0)
        config.data.update(flip=False, crop="center")  # the features are of the images as they are
    return config
