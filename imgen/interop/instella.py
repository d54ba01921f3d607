"""Instella-T2I's tokenizer and generators: official state dicts <-> our parameters.

Sources: `bae/ae_model.py`, `models/ar_model.py`, `models/diff_model.py`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from imgen.errors import UserError
from imgen.generators import Generator, make_generator
from imgen.generators.bit_diffusion import BitDiffusion
from imgen.interop.table import CONV, FIRST, GATE_UP, LINEAR, Row, Transform, layer
from imgen.latents import LatentSpec
from imgen.tokenizers.binary_1d import Binary1D, binary_1d

UNUSED = (
    r"time_embed\..*",
)  # in the state dict of the autoregressive model, but not in its forward pass


def arguments(config: Mapping[str, Any], text_slots: int) -> dict[str, Any]:
    """What both models are made of."""
    width = config["attention_head_dim"] * config["num_attention_heads"]
    return dict(
        width=width,
        depth=config["num_layers"],
        heads=config["num_attention_heads"],
        hidden=4 * width,
        ffn="gelu",
        qk_norm=True,
        position="block",
        norm_eps=1e-6,
        dropout=0.0,
        conditioning=dict(
            name="layer_text",
            layers=config["num_layers"],
            context_slots=text_slots,
            text_width=config["text_cond_dim"],
        ),
    )


def generator_from_config(config: Mapping[str, Any], text_slots: int) -> Generator:
    """The autoregressive model of an official configuration, without dropout."""
    return make_generator(
        LatentSpec("bits", (config["num_img_tkns"],), config["in_channels"]),
        plan="raster",
        plan_options={},
        **arguments(config, text_slots),
    )


def rows(generator: Generator) -> list[Row]:
    """The conversion table of the autoregressive model."""
    return [
        Row("split_token", "conditioner/start", FIRST),
        Row("x_embedder.weight", "tokens/proj/kernel", LINEAR),
        Row("x_embedder.bias", "tokens/proj/bias"),
        Row("norm_out.weight", "norm_0/scale"),
        Row("proj_out.weight", "head_0/output/kernel", LINEAR),
        Row("proj_out.bias", "head_0/output/bias"),
        Row(BLOCK + "input_layernorm.weight", OURS + "attention_norm/scale"),
        Row(BLOCK + "post_attention_layernorm.weight", OURS + "ffn_norm/scale"),
        *block_rows(generator.heads, "mlp"),
    ]


def diffusion_rows(model: BitDiffusion) -> list[Row]:
    """The conversion table of the bit-flip diffusion model."""
    return [
        *layer("time_embed.linear_1", "time_1"),
        *layer("time_embed.linear_2", "time_2"),
        *layer("x_embedder", "tokens/proj"),
        *layer("norm_out.linear", "modulation"),
        *layer("proj_out", "output"),
        *layer(BLOCK + "norm1.linear", OURS + "modulation"),
        *block_rows(model.heads, "ff"),
    ]


def tokenizer_from_config(config: Mapping[str, Any], **changes: Any) -> Binary1D:
    """The tokenizer of an official configuration (configs/bae_config.py). Raises UserError where the
    halves' heads are of unlike widths, which the official code cannot run either."""
    if config["encoder_head_dim"] != config["decoder_head_dim"]:
        raise UserError(
            "encoder_head_dim and decoder_head_dim differ, but they share axes_dims_rope"
        )
    arguments = dict(
        bits=config["codebook_size"],
        patch_size=config["patch_size"],
        num_latents=config["num_latent_tkns"],
        head_dim=config["encoder_head_dim"],
        encoder_layers=config["encoder_layers"],
        encoder_heads=config["encoder_num_heads"],
        downsample_idx=tuple(config["downsample_idx"]),
        decoder_layers=config["decoder_layers"],
        decoder_heads=config["decoder_num_heads"],
        upsample_idx=tuple(config["upsample_idx"]),
        axes_dims=tuple(config["axes_dims_rope"]),
    )
    return binary_1d(**(arguments | changes))


def tokenizer_rows(model: Binary1D) -> list[Row]:
    """The conversion table of the tokenizer."""
    table = [
        Row("encoder.latent_tokens", "encoder/latent_tokens", FIRST),
        Row("encoder.patch_embedder.weight", "encoder/patch_embedder/kernel", CONV),
        Row("encoder.patch_embedder.bias", "encoder/patch_embedder/bias"),
        Row("encoder.down_layers.{i}.conv.weight", "encoder/down_{i}/conv/kernel", CONV),
        Row("encoder.down_layers.{i}.conv.bias", "encoder/down_{i}/conv/bias"),
        Row("encoder.norm_out.weight", "encoder/norm_out/scale"),
        *layer("encoder.proj_out", "encoder/proj_out"),
        *layer("quantizer.proj.0", "to_code"),
        Row("quantizer.embed", "quantizer/embedding"),
        Row(
            "decoder.mask_tokens",
            "decoder/mask_token",
            Transform(np.ravel, lambda x: x[None, None]),
        ),
        Row("decoder.input_layer.0.weight", "decoder/norm_in/scale"),
        *layer("decoder.input_layer.1", "decoder/proj_in"),
        Row("decoder.up_layers.{i}.conv.weight", "decoder/up_{i}/conv/kernel", SHUFFLED_CONV),
        Row("decoder.up_layers.{i}.conv.bias", "decoder/up_{i}/conv/bias", SHUFFLED),
        Row("decoder.norm_out.weight", "decoder/norm_out/scale"),
        *layer("to_pixel", "to_pixel"),
    ]
    for half, heads in (("encoder", model.encoder_heads), ("decoder", model.decoder_heads)):
        official, ours = f"{half}.{BLOCK}", f"{half}/block_{{i}}/"
        gate_up = (official + "mlp.gate_proj.weight", official + "mlp.up_proj.weight")
        table += [
            Row(official + "input_layernorm.weight", ours + "attention_norm/scale"),
            Row(official + "post_attention_layernorm.weight", ours + "ffn_norm/scale"),
            Row(gate_up, ours + "ffn/gate_up/kernel", GATE_UP),
            Row(official + "mlp.down_proj.weight", ours + "ffn/down/kernel", LINEAR),
            *attention_rows(official, ours, heads),
        ]
    return table


BLOCK, OURS = "transformer_blocks.{i}.", "transformer/blocks_0/"


def _to_depth(x: np.ndarray) -> np.ndarray:
    """Output channels from pixel shuffle's order (channel, row, column) to (row, column, channel)."""
    return x.reshape(-1, 4, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape)


def _to_shuffle(x: np.ndarray) -> np.ndarray:
    return x.reshape(4, -1, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape)


SHUFFLED = Transform(_to_depth, _to_shuffle)
SHUFFLED_CONV = Transform(
    lambda w: CONV.to_ours(_to_depth(w)), lambda w: _to_shuffle(CONV.to_official(w))
)


def block_rows(heads: int, mlp: str) -> list[Row]:
    """The rows that both generators' blocks share."""
    return [
        Row(BLOCK + "pos_emb", OURS + "positions", FIRST),
        *layer(BLOCK + f"{mlp}.net.0.proj", OURS + "ffn/up"),
        *layer(BLOCK + f"{mlp}.net.2", OURS + "ffn/down"),
        *layer(BLOCK + "proj_cond", OURS + "context"),
        *attention_rows(BLOCK, OURS, heads),
    ]


def attention_rows(official: str, ours: str, heads: int) -> list[Row]:
    """The rows of a block's attention, whose official keys begin with `official`."""
    out = Transform(  # [D, N H] <-> [N, H, D]
        lambda w: w.T.reshape(heads, -1, w.shape[0]),
        lambda w: w.reshape(-1, w.shape[-1]).T,
    )
    return [
        Row(
            tuple(official + f"attn.{name}_proj.weight" for name in "qkv"),
            ours + "attention/qkv/kernel",
            Transform(  # three [N H, D] <-> [D, N, 3, H]
                lambda *w: np.stack([m.T.reshape(m.shape[1], heads, -1) for m in w], axis=2),
                lambda w: tuple(w[:, :, j].reshape(w.shape[0], -1).T for j in range(3)),
            ),
        ),
        Row(official + "attn.o_proj.weight", ours + "attention/out/kernel", out),
        Row(official + "attn.norm_q.weight", ours + "attention/q_norm/scale"),
        Row(official + "attn.norm_k.weight", ours + "attention/k_norm/scale"),
    ]
