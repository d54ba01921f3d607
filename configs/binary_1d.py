"""Instella-T2I's tokenizer: 128 tokens of 64 bits, whatever the picture's size (`bae/`, AMD's repository).

    python -m imgen.train --config configs/binary_1d.py --workdir RUN \
        --config.train.tokenizer.lpips_weights=lpips_vgg.safetensors

The model is the released one; its training code is not public. The losses are what summaries of the paper
name (smooth L1, LPIPS, an adversary whose adaptive weight is at most 1, started as configs/bae.py's); rate,
batch and length are ours.
REPA (0.5 of the cosine to a teacher's features, our choice of a weight) is off: name the features' file in
data.train.teacher and set tokenizer.repa, their width in `features` and the decoder's block in `layer`.
`smoke` as in configs/vq.py.
"""

from ml_collections import ConfigDict

from configs import vq
from imgen.config import choose

SIZES = ("binary_1d",)
ARGS = (*SIZES, "smoke")


def get_config(arg: str | None = None) -> ConfigDict:
    name, options = choose(arg, SIZES, __file__)
    base = vq.get_config
    config = base(",".join(["vq16", *options]))
    config.tokenizer = dict(name=name, position_scale=1024, dtype="bfloat16")
    stage = config.train.tokenizer
    stage.update(reconstruction="smooth_l1", ema_decay=0.9995)
    stage.adversary = dict(
        discriminator="patchgan", weight=1.0, start=30_002, optimizer_waits=True, adaptive=True,
        adaptive_most=1.0,
    )  # fmt: skip
    if "smoke" in options:
        config.tokenizer = dict(
            name=name, image_size=32, patch_size=8, num_latents=8, bits=8, head_dim=16, encoder_heads=2,
            encoder_layers=2, downsample_idx=(0,), decoder_heads=2, decoder_layers=2, upsample_idx=(0,),
        )  # fmt: skip
        small = dict(name="patchgan", ndf=8, n_layers=2)
        stage.adversary = dict(stage.adversary, start=3, discriminator=small)
    else:
        config.data.image_size = 512
        config.tokenizer.image_size = 512
        stage.update(steps=500_000, batch_size=256)
    return config
