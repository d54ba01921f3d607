"""xAR: official state dicts <-> our parameters (OliverRensu/xAR, models/xar.py)."""

from collections.abc import Mapping
from typing import Any

from imgen.conditioning import ClassLabels
from imgen.generators.entities import cell
from imgen.generators.xar import XAR
from imgen.interop.table import FIRST, GATE_UP, GATE_UP_BIAS, Row, Transform, cut_layer, layer

BUFFERS = ("mask", r".*\.attn\.rope\.freqs(_cos|_sin)?")


def model_from_config(config: Mapping[str, Any]) -> XAR:
    """The model of an official configuration, without dropout."""
    width = config["dim"]
    return XAR(
        cell((config["grid"],) * 2, config["cell"]),
        config["latent_channels"],
        ClassLabels(config["num_classes"], width),
        width,
        (config["encoder_depth"], config["decoder_depth"]),
        config["heads"],
        config["mlp_hidden"],
        dropout=0.0,
        rope_base=config["rope_theta"],
    )


def rows(model: XAR) -> list[Row]:
    """The conversion table."""
    heads, width = model.heads, model.width
    head_dim = width // heads
    qkv_kernel = Transform(  # [3 D, D] <-> [D, N, 3, H]
        lambda w: w.T.reshape(width, 3, heads, head_dim).transpose(0, 2, 1, 3),
        lambda w: w.transpose(0, 2, 1, 3).reshape(width, 3 * width).T,
    )
    qkv_bias = Transform(
        lambda b: b.reshape(3, heads, head_dim).swapaxes(0, 1),
        lambda b: b.swapaxes(0, 1).reshape(-1),
    )
    out_kernel = Transform(  # [D, D] <-> [N, H, D]
        lambda w: w.T.reshape(heads, head_dim, width), lambda w: w.reshape(width, width).T
    )
    found = [
        Row("class_emb.weight", "conditioner/table/embedding"),
        *layer("time_embed.mlp.0", "time/in"),
        *layer("time_embed.mlp.2", "time/out"),
        *layer("z_proj", "inputs_0"),
        Row("z_proj_ln.weight", "input_norm/scale"),
        *layer("decoder_embed", "inputs_1"),
        *layer("pred", "output"),
    ]
    for i, name in enumerate(("encoder", "decoder")):
        theirs, ours = f"{name}_blocks.{{i}}.", f"stack_{i}/"
        found += [
            Row(f"{name}_pos_embed_learned", f"positions_{i}", FIRST),
            Row(f"{name}_norm.weight", f"norm_{i}/scale"),
            Row(theirs + "attn.qkv.weight", ours + "attention/qkv/kernel", qkv_kernel),
            Row(theirs + "attn.qkv.bias", ours + "attention/qkv/bias", qkv_bias),
            Row(theirs + "attn.proj.weight", ours + "attention/out/kernel", out_kernel),
            Row(theirs + "attn.proj.bias", ours + "attention/out/bias"),
            *(
                Row(
                    (f"{theirs}mlp.fc1_g.{kind}", f"{theirs}mlp.fc1_x.{kind}"),
                    f"{ours}ffn/gate_up/{leaf}",
                    both,
                )
                for kind, leaf, both in (
                    ("weight", "kernel", GATE_UP),
                    ("bias", "bias", GATE_UP_BIAS),
                )
            ),
            *layer(theirs + "mlp.fc2", ours + "ffn/down"),
            *cut_layer(theirs + "ada_lin.1", ours + "modulation/linear", 6),
        ]
    return found
