"""NAR: next-neighbour order for images and videos, published sizes and recipes (arXiv 2503.10696).

    python -m imgen.train --config configs/nar.py:nar_b --workdir RUN \
        --config.data.source.path="('codes_1.1',)" --config.init.tokenizer=VQ16_RUN

nar_b ... nar_xxl: ImageNet, codes as in configs/imagenet.py (NAR trains on ten crops of range 1.1). Published
FID at 256x256 (300 epochs, guidance 2.0, 31 calls an image): B 4.65, M 3.27, L 3.06, XL 2.70, XXL 2.58.
nar_video_l, nar_video_lp: UCF-101, stored codes [4, 16, 16] of 16 frames (LARP's, in the published figures:
FVD 96.2 and 71.1 at guidance 1.25, 34 calls). Paper and scripts disagree about rate and epochs; here the
paper's 3,000 epochs and rate with the script's cosine.
nar_xl_text: stage 1 of text to image, 256 px; it builds, but no data source gives text features yet.
None of the figures has been reproduced here. `smoke` as in configs/imagenet.py, for the image sizes.
"""

from ml_collections import ConfigDict

from configs import imagenet
from imgen.errors import UserError
from imgen.generators.presets import NAR, NAR_VIDEO

IMAGE_SIZES = tuple(f"nar_{size.lower()}" for size in NAR)
VIDEO_SIZES = tuple(f"nar_video_{size.lower()}" for size in NAR_VIDEO)
SIZES = (*IMAGE_SIZES, *VIDEO_SIZES, "nar_xl_text")
ARGS = (*SIZES, "smoke")
EPOCHS_AT = (1 / 2, 2 / 3, 5 / 6)  # 150, 200 and 250 of 300
UCF_CLIPS = 9_537
TEXT_PAIRS = 4_000_000


def get_config(arg: str | None = None) -> ConfigDict:
    parts = (arg or "nar_b").split(",")
    chosen = [part for part in parts if part in SIZES]
    if len(chosen) != 1 or ("smoke" in parts and chosen[0] not in IMAGE_SIZES):
        raise UserError(
            f"configs/nar.py:ARG names one of {', '.join(SIZES)}; smoke goes with {', '.join(IMAGE_SIZES)}"
        )
    base = imagenet.get_config
    config = base("llamagen_b,smoke" if "smoke" in parts else "llamagen_b")
    config.generator.plan = "nar"
    stage = config.train.generator
    stage.optimizer.schedule = dict(name="step", factor=0.2, at=EPOCHS_AT)
    stage.guidance.scale = 2.0
    size = chosen[0].removeprefix("nar_").removeprefix("video_").removesuffix("_text").upper()
    if chosen[0] in VIDEO_SIZES:
        _video(config, size)
    elif "smoke" not in parts:
        config.generator.update(NAR[size], remat="none" if size in "BML" else "dots")
    if chosen[0] == "nar_xl_text":
        config.generator.conditioning = dict(name="text", text_width=2048, num_slots=120)
        stage.update(steps=60 * (TEXT_PAIRS // 512), batch_size=512)
        stage.optimizer.schedule = dict(name="cosine", warmup_steps=0, final=0.01)
        stage.guidance.scale = 7.5
    return config


def _video(config: ConfigDict, size: str) -> None:
    batch_size = 32 if size == "L" else 64
    epoch = UCF_CLIPS // batch_size
    config.data.image_size = 128
    config.data.eval.split = "test"
    config.tokenizer = dict(name="codes", kind="index", grid=(4, 16, 16), size=8192)
    config.generator.update(NAR_VIDEO[size], remat="dots")
    config.generator.conditioning.num_classes = 101
    config.train.generator.update(steps=3000 * epoch, batch_size=batch_size)
    optimizer = config.train.generator.optimizer
    optimizer.schedule = dict(name="cosine", warmup_steps=4 * epoch, final=0.01)
    optimizer.decay = ((r"kernel$", 1.0), (".*", 0.0))  # linear layers only
    with config.ignore_type():
        optimizer.clip_norm = None
    config.train.generator.guidance.scale = 1.25
