"""The 2D binary autoencoder of Binary Latent Diffusion and ELM <-> our `bae`.

Source: Pepper-lll/LMforImageGeneration, bae/binaryae.py. Each official half is one flat list of blocks.
"""

from collections.abc import Iterator

from imgen.interop.table import Row, norm
from imgen.interop.taming import attention, conv, res
from imgen.tokenizers.autoencoder import Half
from imgen.tokenizers.conv import ConvTokenizer

# A layer that the official forward pass does not use, and the 1x1 convolution of each block that keeps its
# width, which is there and not used either.
IGNORED = (r"generator\.logsigma\..*", r"(encoder|generator)\.blocks\.\d+\.conv_out\..*")


def rows(tokenizer: ConvTokenizer) -> list[Row]:
    """The table for this tokenizer."""
    table = [Row("quantize.embed.weight", "quantizer/embedding")]
    table += conv("quantize.proj.0", "quant_conv")
    encoder, decoder = tokenizer.encoder, tokenizer.decoder
    first = (_NORM_IN,) if decoder.norm_first else ()
    lists = {
        "encoder": (_CONV_IN, *_levels(encoder, down=True), *_MIDDLE, *_EXIT),
        "decoder": (*first, _CONV_IN, *_MIDDLE, *_levels(decoder, down=False), *_EXIT),
    }
    for official, half in (("encoder", "encoder"), ("generator", "decoder")):
        for number, (kind, ours) in enumerate(lists[half]):
            table += kind(f"{official}.blocks.{number}", f"{half}/{ours}")
    return table


def _levels(half: Half, *, down: bool) -> Iterator[tuple]:
    """Yields what stands in the list of blocks between entry or middle and exit: a maker of rows and our
    name."""
    levels = range(len(half.ch_mult))
    for level in levels if down else reversed(levels):
        for i in range(half.num_res_blocks):
            yield _res, f"level_{level}/res_{i}"
            if level in half.attention_levels:
                yield attention, f"level_{level}/attn_{i}"
        if level != (levels[-1] if down else 0):
            yield _resample, f"level_{level}/resample"


def _res(official: str, ours: str) -> list[Row]:
    return res(official, ours, shortcut="conv_out")


def _resample(official: str, ours: str) -> list[Row]:
    return conv(f"{official}.conv", f"{ours}/conv")


_NORM_IN, _CONV_IN = (norm, "norm_in"), (conv, "conv_in")
_MIDDLE = ((_res, "mid/res_0"), (attention, "mid/attn"), (_res, "mid/res_1"))
_EXIT = ((norm, "norm_out"), (conv, "conv_out"))
