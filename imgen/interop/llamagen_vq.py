"""LlamaGen's VQ tokenizer (vq_ds16_c2i.pt, vq_ds8_c2i.pt, vq_ds16_t2i.pt) <-> our `VQ`.

Source: FoundationVision/LlamaGen, tokenizer/tokenizer_image/vq_model.py. The official decoder
numbers its levels in the order in which they run, lowest resolution first; ours by resolution.
"""

from imgen.interop.table import CONV, Row

IGNORED = (r"quantize\.codebook_used",)  # a ring buffer of recent codes


def rows(num_levels: int) -> list[Row]:
    """The table for an autoencoder of `num_levels` levels (len(ch_mult))."""
    table = [Row("quantize.embedding.weight", "quantizer/codebook")]
    for name in ("quant_conv", "post_quant_conv"):
        table += _conv(name, name)
    for half in ("encoder", "decoder"):
        for name in ("conv_in", "conv_out"):
            table += _conv(f"{half}.{name}", f"{half}/{name}")
        table += _norm(f"{half}.norm_out", f"{half}/norm_out")
        table += _res(f"{half}.mid.0", f"{half}/mid/res_0")
        table += _attention(f"{half}.mid.1", f"{half}/mid/attn")
        table += _res(f"{half}.mid.2", f"{half}/mid/res_1")
        for level in range(num_levels):
            block = level if half == "encoder" else num_levels - 1 - level
            resample = "downsample" if half == "encoder" else "upsample"
            official, ours = f"{half}.conv_blocks.{block}", f"{half}/level_{level}"
            table += _res(f"{official}.res.{{i}}", f"{ours}/res_{{i}}")
            table += _attention(f"{official}.attn.{{i}}", f"{ours}/attn_{{i}}")
            table += _conv(f"{official}.{resample}.conv", f"{ours}/resample/conv")
    return table


def _conv(official: str, ours: str) -> list[Row]:
    return [
        Row(f"{official}.weight", f"{ours}/kernel", CONV),
        Row(f"{official}.bias", f"{ours}/bias"),
    ]


def _norm(official: str, ours: str) -> list[Row]:
    return [Row(f"{official}.weight", f"{ours}/scale"), Row(f"{official}.bias", f"{ours}/bias")]


def _res(official: str, ours: str) -> list[Row]:
    table = _conv(f"{official}.nin_shortcut", f"{ours}/shortcut")
    for i in (1, 2):
        table += _norm(f"{official}.norm{i}", f"{ours}/norm{i}")
        table += _conv(f"{official}.conv{i}", f"{ours}/conv{i}")
    return table


def _attention(official: str, ours: str) -> list[Row]:
    table = _norm(f"{official}.norm", f"{ours}/norm")
    for theirs, name in (("q", "q"), ("k", "k"), ("v", "v"), ("proj_out", "out")):
        table += _conv(f"{official}.{theirs}", f"{ours}/{name}")
    return table
