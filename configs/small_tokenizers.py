"""Every tokenizer, small, for CIFAR-10 (32x32) or a thousand ImageNet pictures (256x256) on a CPU.

    TFDS_DATA_DIR=... python -m imgen.train --config configs/small_tokenizers.py:vq --workdir runs/vq

ARG: a name, then "cifar10" (default) or "imagenet", and "smoke" for seconds on drawn shapes, with commas.
benchmarks/compare_tokenizers.py trains all of them. The two-dimensional ones share a convolutional body, the
one-dimensional ones have a transformer on either side of their tokens. These are no published models:
configs/vq.py, titok.py, ... are. flextok needs the run of a KL autoencoder (the one named kl here) in
init.parts.vae.
"""

from ml_collections import ConfigDict

from imgen.errors import UserError

# 32x32: 8x8 positions of 4x4 pixels. 256x256: 16x16 positions of 16x16 pixels.
DATA = {
    "cifar10": dict(
        dataset="cifar10", train="train", eval="test", size=32, patch=4, crop="none", batch_size=32
    ),
    "imagenet": dict(
        dataset="imagenet_sample", train="train[:900]", eval="train[900:]", size=256, patch=16,
        crop="random", batch_size=16,
    ),
}  # fmt: skip
# For codebooks: start at k-means centres, follow the features, restart what dies.
CODEBOOK = dict(
    kmeans_init=True, ema_codebook=True, usage_decay=0.95, restart_every=20, restart_threshold=0.05
)


def conv(data: dict) -> dict:
    return dict(patch=data["patch"], ch=64, ch_mult=(1,), num_res_blocks=2, groups=8, z_channels=64)


def quantized(**quantizer):
    """The convolutional body around a quantizer."""

    def make(data: dict) -> dict:
        plain = dict(attention_levels=(), mid_attention=False)
        return dict(name="conv", quantizer=quantizer, **conv(data), **plain)

    return make


def one_dimensional(name: str, **quantizer):
    """32 tokens between two transformers of width 128."""

    def make(data: dict) -> dict:
        return dict(
            name=name, image_size=data["size"], patch_size=data["patch"], num_latents=32, head_dim=32,
            encoder_heads=4, encoder_layers=4, downsample_idx=(), decoder_heads=4, decoder_layers=4,
            upsample_idx=(), **quantizer,
        )  # fmt: skip

    return make


def titok(**quantizer):
    def make(data: dict) -> dict:
        return dict(
            name="titok", image_size=data["size"], num_latents=32, encoder_size=(128, 4, 4),
            decoder_size=(128, 4, 4), encoder_patch=data["patch"], decoder_patch=data["patch"],
            quantizer=quantizer,
        )  # fmt: skip

    return make


def bae(data: dict) -> dict:
    return dict(name="bae", bits=9, attention_levels=(), **conv(data))


def kl(data: dict) -> dict:
    sizes = {**conv(data), "z_channels": 4}
    return dict(name="kl", embed_dim=4, encoder_attention_levels=(), **sizes)


def dynamic(data: dict) -> dict:
    return dict(
        name="dynamic", image_size=data["size"], patch_size=data["patch"], width=128, heads=4, mlp_ratio=4.0,
        encoder_layers=3, merger_layers=2, decoder_layers=3, codebook_size=512, codebook_dim=8,
        keep_ratio=0.5,
    )  # fmt: skip


def flextok(data: dict) -> dict:
    return dict(
        name="flextok", image_size=data["size"], vae=kl(data), registers=32, encoder_width=128,
        encoder_depth=4, decoder_width=128, decoder_depth=4, head_dim=32, patch=1, steps=10,
        guidance_scale=1.0,
        quantizer=dict(name="fsq", levels=(4, 4, 4)),
    )  # fmt: skip


TOKENIZERS = {
    "vq": quantized(name="vq", codebook_size=512, codebook_dim=8),
    "fsq": quantized(name="fsq", levels=(8, 8, 8)),
    "lfq": quantized(name="lfq", bits=9),
    "bsq": quantized(name="bsq", bits=9),
    "ibq": quantized(name="ibq", codebook_size=512, codebook_dim=16, init_bound=0.5),
    "rq": quantized(name="rq", codebook_size=512, codebook_dim=8, depth=2),
    "bae": bae,
    "kl": kl,
    "binary_1d": one_dimensional("binary_1d", bits=12),
    "vq_1d": one_dimensional("vq_1d", codebook_size=4096, codebook_dim=8),
    "titok": titok(name="vq", codebook_size=4096, codebook_dim=8, l2_norm=True),
    "titok_vae": titok(name="gaussian", channels=8),
    "dynamic": dynamic,
    "flextok": flextok,
}
TRAINING = {name: CODEBOOK for name in ("vq", "rq", "vq_1d", "titok", "dynamic")}
STEPS = {"flextok": 3000}  # a flow learns slowly, and its codes come to life late
SIZES = tuple(TOKENIZERS)
ARGS = (*SIZES, *DATA, "smoke")


def shrunk(tokenizer: dict) -> dict:
    """The same kind of model with less in it, for `smoke`."""
    sizes = dict(
        ch=16, encoder_layers=1, merger_layers=1, decoder_layers=1, encoder_depth=1, decoder_depth=1,
        encoder_width=32, decoder_width=32, encoder_size=(32, 1, 2), decoder_size=(32, 1, 2), steps=2,
    )  # fmt: skip
    small = {**tokenizer, **{key: value for key, value in sizes.items() if key in tokenizer}}
    return {**small, "vae": shrunk(small["vae"])} if "vae" in small else small


def get_config(arg: str | None = None) -> ConfigDict:
    parts = (arg or "vq").split(",")
    unknown = [part for part in parts if part not in (*SIZES, *DATA, "smoke")]
    names, data = ([part for part in parts if part in known] for known in (SIZES, DATA))
    if unknown or len(names) != 1 or len(data) > 1:
        raise UserError(
            f"configs/small_tokenizers.py:ARG names one of {', '.join(SIZES)}, one of {', '.join(DATA)}, "
            "and smoke"
        )
    (name,), data = names, DATA[(data or ["cifar10"])[0]]
    config = ConfigDict(
        dict(
            seed=0,
            mesh=dict(data=-1, fsdp=1, tensor=1),
            data=dict(
                source=dict(name="tfds", dataset=data["dataset"], data_dir=None),
                train=dict(split=data["train"], teacher=""),
                eval=dict(split=data["eval"], num_examples=1000),
                image_size=data["size"],
                crop=data["crop"],
                flip=True,
                num_workers=0,
            ),
            tokenizer=TOKENIZERS[name](data),
            init=dict(tokenizer="", parts=dict(vae="") if name == "flextok" else {}),
            train=dict(
                tokenizer=dict(
                    steps=STEPS.get(name, 1500),
                    batch_size=data["batch_size"],
                    log_every=50,
                    eval_every=500,
                    checkpoint_every=500,
                    visualize_every=500,
                    ema_decay=0.995,
                    **TRAINING.get(name, {}),
                    optimizer=dict(
                        learning_rate=1e-3,
                        betas=(0.9, 0.99),
                        clip_norm=1.0,
                        schedule=dict(name="cosine", warmup_steps=100),
                    ),
                ),  # fmt: skip
            ),
        )
    )
    if "smoke" in parts:
        small = DATA["cifar10"]
        config.data.update(image_size=32, crop="none")
        config.data.source = dict(name="shapes", size=32)
        config.data.train = dict(split="train", num=64, teacher="")
        config.data.eval = dict(split="test", num=16)
        config.tokenizer = shrunk(TOKENIZERS[name](small))
        config.train.tokenizer.update(steps=4, batch_size=8, log_every=1, num_pictures=4)
    return config
