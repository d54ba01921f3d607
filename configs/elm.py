"""ELM: language models of binary codes in sub-codes, published sizes and recipe (LMforImageGeneration).

    python -m imgen.train --config configs/elm.py:elm_l --workdir RUN --config.init.tokenizer=BAE_RUN

BAE_RUN trained configs/bae.py, with as many bits: "2-10" are two sub-codes of ten. As published, an
image's bits are drawn anew at every visit, so images are read, not stored codes. Published FID at 256x256
without guidance: L 2-10 15.95, XL 2-10 12.70, XXL 2-12 10.11; with it 2B 2-12 1.54. Not reproduced here.
`masked` is the masked language model instead of the autoregressive one (10 steps), with the same output
layer: the published one has its own. `smoke` trains both stages, tiny, on drawn shapes.
"""

from ml_collections import ConfigDict

from configs import bae, imagenet
from imgen.config import choose
from imgen.generators.presets import ELM

BITS = {"l": 20, "xl": 20, "xxl": 24, "2b": 24}  # two sub-codes of 10 or 12
TOP_K = {
    20: 1000,
    24: 2048,
}  # of 1024 as in the released script; of 4096 the paper's "half or more"
SIZES = tuple(f"elm_{size}" for size in BITS)
ARGS = (*SIZES, "masked", "smoke")
IMAGES, EPOCHS, BATCH_SIZE = 1_281_167, 400, 256


def get_config(arg: str | None = None) -> ConfigDict:
    name, options = choose(arg, SIZES, __file__)
    size, bits = name.removeprefix("elm_"), BITS[name.removeprefix("elm_")]
    base = imagenet.get_config
    config = base("llamagen_b,smoke" if "smoke" in options else "llamagen_b")
    config.generator.update(head="subcodes", head_options=dict(parts=2))
    stage = config.train.generator
    stage.update(
        ema_decay=0.9999,
        sample_latents=True,
        guidance=dict(scale=4.0, schedule="linear_after"),
        filters=dict(top_k=TOP_K[bits]),
    )
    if "smoke" in options:
        config.tokenizer = dict(
            name="bae",
            bits=8,
            patch=4,
            ch=16,
            ch_mult=(1,),
            num_res_blocks=1,
            z_channels=16,
            groups=8,
            attention_levels=(),
        )
        stage.filters.top_k = 8
    else:
        images = bae.get_config()
        config.data = images.data
        config.data.crop = "center"
        config.tokenizer = dict(name="bae", bits=bits, dtype="bfloat16")
        config.generator.update(ELM[size.upper()], remat="dots")
        stage.update(steps=EPOCHS * (IMAGES // BATCH_SIZE), batch_size=BATCH_SIZE)
    if "masked" in options:
        config.generator.update(plan="masked", scheme_options=dict(ratio="steps", steps=10))
        stage.sampling = dict(steps=10)
    return config
