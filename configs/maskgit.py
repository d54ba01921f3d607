"""Masked generators of codes on ImageNet: MaskGIT and TiTok's (google-research/maskgit, 1d-tokenizer).

Codes of a tokenizer's run, then training on them:

    for SPLIT in train validation; do
      python -m imgen.encode --workdir TOKENIZER_RUN --dataset imagenet2012 --split $SPLIT --out codes
    done
    python -m imgen.train --config configs/maskgit.py:titok_b64 --workdir RUN \
        --config.data.source.path="('codes',)" --config.init.tokenizer=TOKENIZER_RUN

maskgit_256: 256 codes of MaskGIT's VQGAN (configs/vq.py:maskgit_vqgan), FID 6.06; no class is dropped and
there is no guidance. How its rate went after the warm-up isn't published: here it is constant.
titok_l32, titok_b64 (BERT) and titok_s128 (U-ViT): the codes of configs/titok.py, FID 2.77, 2.48, 1.97 in 8,
8 and 64 steps. Not reproduced here. TiTok's scale of guidance counts from the conditional logits: 1 is added
to it where it is linear. `imgen.sample --steps N` takes another number of steps of a trained run.
`smoke` trains a narrow one on shapes in seconds.
"""

from ml_collections import ConfigDict

from configs import imagenet
from imgen.config import choose
from imgen.generators.presets import IMAGE_BERT, MASKGIT, UVIT_BERT

SIZES = ("maskgit_256", "titok_l32", "titok_b64", "titok_s128")
ARGS = (*SIZES, "smoke")
MODELS = {
    "maskgit_256": MASKGIT,
    "titok_l32": IMAGE_BERT,
    "titok_b64": IMAGE_BERT,
    "titok_s128": UVIT_BERT,
}
# Steps, noise of the choice, guidance (configs/infer/TiTok, README; MaskGIT's demo).
SAMPLING = {
    "maskgit_256": (16, 4.5, dict(scale=1.0)),
    "titok_l32": (8, 9.5, dict(scale=1 + 4.5, schedule="linear_before")),
    "titok_b64": (8, 11.0, dict(scale=1 + 3.0, schedule="linear_before")),
    "titok_s128": (64, 2.8, dict(scale=6.9, schedule="pow_cosine", power=3.0)),
}
DECAY = ((r"kernel$", 1.0), (".*", 0.0))  # neither embeddings, norms nor biases


def get_config(arg: str | None = None) -> ConfigDict:
    name, options = choose(arg, SIZES, __file__)
    smoke = "smoke" in options
    config = imagenet.get_config("llamagen_b,smoke" if smoke else "llamagen_b")
    config.generator = dict(
        **MODELS[name],
        conditioning=config.generator.conditioning,
        remat="none",
        dtype="bfloat16",
    )
    stage = config.train.generator
    steps, noise, guidance = SAMPLING[name]
    stage.sampling = dict(steps=steps, method="maskgit" if name == "maskgit_256" else "titok")
    stage.filters = dict(choice_temperature=noise)
    stage.guidance = guidance
    (maskgit if name == "maskgit_256" else titok)(stage)
    if smoke:
        small = dict(MODELS[name]["backbone_options"], depth=2, heads=2, hidden=64)
        config.generator.update(width=32, backbone_options=small, dtype="float32")
        stage.update(steps=4, batch_size=16)
        stage.optimizer.schedule.warmup_steps = 1
        stage.sampling.steps = 4
    else:
        tokenizer = "maskgit_vqgan" if name == "maskgit_256" else name
        config.tokenizer = dict(name=tokenizer, dtype="bfloat16")
    return config


def maskgit(stage: ConfigDict) -> None:
    stage.update(steps=2_000_000, batch_size=256, condition_dropout=0.0)
    stage.optimizer = dict(
        name="adamw", learning_rate=1e-4, betas=(0.9, 0.96), weight_decay=0.045, clip_norm=None,
        schedule=dict(name="constant", warmup_steps=5_000),
    )  # fmt: skip


def titok(stage: ConfigDict) -> None:
    stage.update(steps=500_000, batch_size=2048, ema_decay=0.999)
    stage.optimizer = dict(
        name="adamw", learning_rate=2e-4, betas=(0.9, 0.96), weight_decay=0.03, decay=DECAY,
        clip_norm=1.0, schedule=dict(name="cosine", warmup_steps=10_000, final=1e-5 / 2e-4),
    )  # fmt: skip
