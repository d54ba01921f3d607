"""Denoising heads: official state dicts <-> our parameters, {"denoiser": ..., "head_0": ...}.

Sources: LTH14/mar, models/diffloss.py; inclusionAI/Ming-UniVision, mingunivision/diff_loss_rf_swiglu.py.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from imgen.generators.denoising_heads import DiffusionHead, FlowHead
from imgen.interop.table import Row, Transform, cut_layer, layer, norm


def mar_head_from_config(config: Mapping[str, Any]) -> DiffusionHead:
    """The head of an official configuration."""
    return DiffusionHead(
        channels=config["target_channels"],
        hidden=config["z_channels"],
        width=config["width"],
        depth=config["depth"],
        time_features=config.get("time_freq_dim", 256),
        train_steps=config["train_steps"],
    )


def mar_rows(prefix: str = "net.") -> list[Row]:
    """The conversion table of MAR's head. prefix: "diffloss.net." in whole checkpoints."""
    block, ours = f"{prefix}res_blocks.{{i}}.", "denoiser/block_{i}/"
    return [
        *_common_rows(prefix),
        *layer(f"{prefix}final_layer.linear", "denoiser/output"),
        *layer(f"{block}mlp.0", f"{ours}up"),
        *layer(f"{block}mlp.2", f"{ours}down"),
    ]


def ming_head_from_config(config: Mapping[str, Any]) -> FlowHead:
    """The head of an official configuration."""
    return FlowHead(
        channels=config["channels"],
        hidden=config["hidden"],
        width=config["width"],
        depth=config["depth"],
        ffn="swiglu",
        ratio=config["mlp_mult"],
        features=config["width"],
    )


def ming_rows(prefix: str = "diffloss.net.", features: str = "vis_head.") -> list[Row]:
    """The conversion table of Ming's head, which gives x0 - eps: the output changes its sign."""
    block, ours = f"{prefix}res_blocks.{{i}}.", "denoiser/block_{i}/"
    final = f"{prefix}final_layer.linear"
    return [
        *layer(f"{features}0", "head_0/output"),
        *norm(f"{features}1", "head_0/norm"),
        *_common_rows(prefix),
        Row(f"{final}.weight", "denoiser/output/kernel", Transform(_minus_t, _minus_t)),
        Row(f"{final}.bias", "denoiser/output/bias", Transform(np.negative, np.negative)),
        *cut_layer(f"{block}mlp.w12", f"{ours}ffn/gate_up", 2),
        *layer(f"{block}mlp.w3", f"{ours}ffn/down"),
    ]


def _minus_t(w: np.ndarray) -> np.ndarray:
    return -w.T


def _common_rows(prefix: str) -> list[Row]:
    block, ours = f"{prefix}res_blocks.{{i}}.", "denoiser/block_{i}/"
    return [
        *layer(f"{prefix}time_embed.mlp.0", "denoiser/time/in"),
        *layer(f"{prefix}time_embed.mlp.2", "denoiser/time/out"),
        *layer(f"{prefix}cond_embed", "denoiser/condition"),
        *layer(f"{prefix}input_proj", "denoiser/input"),
        *cut_layer(f"{prefix}final_layer.adaLN_modulation.1", "denoiser/modulation/linear", 2),
        *norm(f"{block}in_ln", f"{ours}norm"),
        *cut_layer(f"{block}adaLN_modulation.1", f"{ours}modulation/linear", 3),
    ]
