"""LlamaGen's VQ tokenizer (vq_ds16_c2i.pt, vq_ds8_c2i.pt, vq_ds16_t2i.pt) <-> our `vq`.

Source: FoundationVision/LlamaGen, tokenizer/tokenizer_image/vq_model.py. The official decoder
numbers its levels in the order in which they run, lowest resolution first; ours by resolution.
"""

from imgen.interop.table import Row
from imgen.interop.taming import attention, conv, ends, res

IGNORED = (r"quantize\.codebook_used",)  # a ring buffer of recent codes


def rows(num_levels: int) -> list[Row]:
    """The table for an autoencoder of `num_levels` levels (len(ch_mult))."""
    table = [Row("quantize.embedding.weight", "quantizer/codebook")]
    table += conv("quant_conv", "quant_conv") + conv("post_quant_conv", "post_quant_conv")
    for half, resample in (("encoder", "downsample"), ("decoder", "upsample")):
        table += ends(half)
        table += res(f"{half}.mid.0", f"{half}/mid/res_0")
        table += attention(f"{half}.mid.1", f"{half}/mid/attn")
        table += res(f"{half}.mid.2", f"{half}/mid/res_1")
        for level in range(num_levels):
            block = level if half == "encoder" else num_levels - 1 - level
            official, ours = f"{half}.conv_blocks.{block}", f"{half}/level_{level}"
            table += res(f"{official}.res.{{i}}", f"{ours}/res_{{i}}")
            table += attention(f"{official}.attn.{{i}}", f"{ours}/attn_{{i}}")
            table += conv(f"{official}.{resample}.conv", f"{ours}/resample/conv")
    return table
