"""Taming VQGAN (last.ckpt, vqgan.ckpt): state dicts <-> our `taming_vqgan`, and the rows of the layout
that LDM, MAR, LlamaGen and MaskGIT's port take over.

Source: CompVis/taming-transformers, taming/modules/diffusionmodules/model.py. Levels are numbered by
resolution on both sides.
"""

from imgen.interop.table import CONV, Row, layer, norm

IGNORED = (r"loss\..*",)  # LPIPS and the discriminator


def rows() -> list[Row]:
    """The table for an autoencoder of any size."""
    return [Row("quantize.embedding.weight", "quantizer/codebook"), *autoencoder()]


def autoencoder() -> list[Row]:
    """Both halves and the 1x1 convolutions between them."""
    table = conv("quant_conv", "quant_conv") + conv("post_quant_conv", "post_quant_conv")
    for half, side, resample in (("encoder", "down", "downsample"), ("decoder", "up", "upsample")):
        table += ends(half)
        for theirs, name in (("block_1", "res_0"), ("block_2", "res_1")):
            table += res(f"{half}.mid.{theirs}", f"{half}/mid/{name}")
        table += attention(f"{half}.mid.attn_1", f"{half}/mid/attn")
        official, ours = f"{half}.{side}.{{level}}", f"{half}/level_{{level}}"
        table += res(f"{official}.block.{{i}}", f"{ours}/res_{{i}}")
        table += attention(f"{official}.attn.{{i}}", f"{ours}/attn_{{i}}")
        table += conv(f"{official}.{resample}.conv", f"{ours}/resample/conv")
    return table


def ends(half: str) -> list[Row]:
    """First convolution, last norm and last convolution of "encoder" or "decoder"."""
    table = norm(f"{half}.norm_out", f"{half}/norm_out")
    for name in ("conv_in", "conv_out"):
        table += conv(f"{half}.{name}", f"{half}/{name}")
    return table


def conv(official: str, ours: str) -> list[Row]:
    return layer(official, ours, CONV)


def res(official: str, ours: str, shortcut: str = "nin_shortcut") -> list[Row]:
    table = conv(f"{official}.{shortcut}", f"{ours}/shortcut")
    for i in (1, 2):
        table += norm(f"{official}.norm{i}", f"{ours}/norm{i}")
        table += conv(f"{official}.conv{i}", f"{ours}/conv{i}")
    return table


def attention(official: str, ours: str) -> list[Row]:
    table = norm(f"{official}.norm", f"{ours}/norm")
    for theirs, name in (("q", "q"), ("k", "k"), ("v", "v"), ("proj_out", "out")):
        table += conv(f"{official}.{theirs}", f"{ours}/{name}")
    return table
