"""MaskGIT's VQGAN <-> our `maskgit_vqgan`: its PyTorch port and the original Flax parameters.

Sources: bytedance/1d-tokenizer, modeling/modules/maskgit_vqgan.py (maskgit-vqgan-imagenet-f16-256.bin);
google-research/maskgit, maskgit/nets/vqgan_tokenizer.py (a msgpack of nested dicts).
"""

from imgen.interop.table import Row
from imgen.interop.taming import conv, ends, res


def rows() -> list[Row]:
    """The table of the port, for an autoencoder of any size."""
    table = [Row("quantize.embedding.weight", "quantizer/codebook")]
    for half, side in (("encoder", "down"), ("decoder", "up")):
        table += ends(half)
        table += res(f"{half}.mid.{{i}}", f"{half}/mid/res_{{i}}")
        official, ours = f"{half}.{side}.{{level}}", f"{half}/level_{{level}}"
        table += res(f"{official}.block.{{i}}", f"{ours}/res_{{i}}")
    return table + conv("decoder.up.{level}.upsample_conv", "decoder/level_{level}/resample/conv")


def flax_rows(num_levels: int, num_res_blocks: int) -> list[Row]:
    """The table of the original, whose paths are joined with "/". Flax numbers a half's modules of one
    kind in the order in which they run."""
    table = [Row("quantizer/codebook", "quantizer/codebook")]
    levels = [f"level_{level}" for level in range(num_levels)]
    for half, order in (
        ("encoder", [*levels, "mid"]),
        ("decoder", ["mid", *reversed(levels)]),
    ):
        blocks = [f"{half}/{part}/res_{i}" for part in order for i in range(num_res_blocks)]
        for number, ours in enumerate(blocks):
            official = f"{half}/ResBlock_{number}"
            names = ("GroupNorm_0", "Conv_0", "GroupNorm_1", "Conv_1", "Conv_2")
            for theirs, name in zip(
                names, ("norm1", "conv1", "norm2", "conv2", "shortcut"), strict=True
            ):
                table += _same(f"{official}/{theirs}", f"{ours}/{name}")
        table += _same(f"{half}/GroupNorm_0", f"{half}/norm_out")
        convs = [f"{half}/conv_in", f"{half}/conv_out"]
        if half == "decoder":
            convs[1:1] = [f"{half}/{level}/resample/conv" for level in reversed(levels[1:])]
        for number, ours in enumerate(convs):
            table += _same(f"{half}/Conv_{number}", ours)
    return table


def _same(official: str, ours: str) -> list[Row]:
    return [Row(f"{official}/{leaf}", f"{ours}/{leaf}") for leaf in ("kernel", "scale", "bias")]
