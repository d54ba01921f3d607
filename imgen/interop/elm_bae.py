"""The 2D binary autoencoder of Binary Latent Diffusion and ELM <-> our `bae`.

Source: Pepper-lll/LMforImageGeneration, bae/binaryae.py. Each official half is one flat list of blocks.
"""

from collections.abc import Iterator

from imgen.interop.table import Row, norm
from imgen.interop.taming import attention, conv, res
from imgen.tokenizers.autoencoder import Encoder, Half
from imgen.tokenizers.conv import ConvTokenizer

# A head that the official forward pass does not use, and the 1x1 convolution of each block that keeps its
# width, which is there and not used either.
IGNORED = (r"generator\.logsigma\..*", r"(encoder|generator)\.blocks\.\d+\.conv_out\..*")


def rows(tokenizer: ConvTokenizer) -> list[Row]:
    """The table for this tokenizer."""
    table = [Row("quantize.embed.weight", "quantizer/embedding")]
    table += conv("quantize.proj.0", "quant_conv")
    for official, half in (("encoder", "encoder"), ("generator", "decoder")):
        for number, (kind, ours) in enumerate(_blocks(getattr(tokenizer, half))):
            table += kind(f"{official}.blocks.{number}", f"{half}/{ours}")
    return table


def _blocks(half: Half) -> Iterator[tuple]:
    """What stands in the list of blocks: a maker of rows and our name of the block."""
    levels = range(len(half.ch_mult))
    middle = [(_res, "mid/res_0"), (attention, "mid/attn"), (_res, "mid/res_1")]
    encoder = isinstance(half, Encoder)
    if not encoder and half.norm_first:
        yield norm, "norm_in"
    yield conv, "conv_in"
    yield from () if encoder else middle
    for level in levels if encoder else reversed(levels):
        for i in range(half.num_res_blocks):
            yield _res, f"level_{level}/res_{i}"
            if level in half.attention_levels:
                yield attention, f"level_{level}/attn_{i}"
        if level != (levels[-1] if encoder else 0):
            yield _resample, f"level_{level}/resample"
    yield from middle if encoder else ()
    yield norm, "norm_out"
    yield conv, "conv_out"


def _res(official: str, ours: str) -> list[Row]:
    return res(official, ours, shortcut="conv_out")


def _resample(official: str, ours: str) -> list[Row]:
    return conv(f"{official}.conv", f"{ours}/conv")
