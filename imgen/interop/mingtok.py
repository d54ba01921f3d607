"""Checkpoints of inclusionAI/Ming-UniVision's tokenizer (MingTok-Vision) <-> our `MingTok`.

Source: mingtok/modeling_mingtok.py, mingtok/vision_transformer and mingtok/config/config_mingtok.json.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from imgen.interop.table import CONV, Row, cut_layer, from_official, layer, norm, to_official
from imgen.interop.titok import QKV, QKV_BIAS, TOKEN

# `mean` and `scaling_factor` of the released config: latents are (z - mean) / scaling_factor.
MEAN, SCALING_FACTOR = 1.46817409, 8.09449291
IGNORED = (r".*target_backbone.*",)  # frozen teachers of training


def rows() -> list[Row]:
    """The table for a MingTok without mask token and semantic target, its quantizer left out."""
    encoder, semantic, pixels = "low_level_encoder", "semantic_decoder", "pixel_decoder"
    return [
        *layer(f"{encoder}.patch_embed.proj", f"{encoder}/patch_embed", CONV),
        Row(f"{encoder}.cls_token", f"{encoder}/class_token", TOKEN),
        Row(f"{encoder}.pos_embed", f"{encoder}/positions", TOKEN),
        *_block_rows(encoder),
        *_gated_rows(encoder),
        *norm(f"{encoder}.out_norm", f"{encoder}/norm_out"),
        *layer(f"{encoder}.out_proj", f"{encoder}/proj_out"),
        *layer(f"{semantic}.in_proj", f"{semantic}/proj_in"),
        *_block_rows(semantic),
        *_gated_rows(semantic),
        *norm(f"{semantic}.norm", f"{semantic}/norm_out"),
        *layer("sem_to_pix", "sem_to_pix"),
        *_block_rows(pixels),
        *layer(f"{pixels}.blocks.0.{{i}}.mlp.fc1", f"{pixels}/transformer/blocks/up"),
        *layer(f"{pixels}.blocks.0.{{i}}.mlp.fc2", f"{pixels}/transformer/blocks/down"),
        *norm(f"{pixels}.norm", f"{pixels}/norm_out"),
        *layer(f"{pixels}.head", f"{pixels}/head"),
    ]


def convert(
    state: Mapping[str, np.ndarray],
    like: Mapping[str, Any],
    mean: float = MEAN,
    scaling_factor: float = SCALING_FACTOR,
) -> dict[str, Any]:
    """Official state dict -> parameters of the shapes of `like`.

    mean, scaling_factor: of the latents; they stand in the model's config, not in its checkpoint.
    Raises UserError, naming keys, where the state dict is not of this model.
    """
    quantizer = {"shift": np.float32(mean), "scale": np.float32(1.0 / scaling_factor)}
    return {**from_official(rows(), state, _stages(like), IGNORED), "quantizer": quantizer}


def convert_back(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Parameters -> official state dict, which leaves mean and scaling factor out."""
    return to_official(rows(), _stages(params))


def _stages(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {name: part for name, part in tree.items() if name != "quantizer"}


def _block_rows(stage: str) -> list[Row]:
    """What all blocks have. Their official list is cut into chunks, of which there is one."""
    official, ours = f"{stage}.blocks.0.{{i}}", f"{stage}/transformer/blocks"
    return [
        *norm(f"{official}.norm1", f"{ours}/norm1"),
        Row(f"{official}.attn.qkv.weight", f"{ours}/qkv/kernel", QKV),
        Row(f"{official}.attn.qkv.bias", f"{ours}/qkv/bias", QKV_BIAS),
        *layer(f"{official}.attn.proj", f"{ours}/out"),
        *norm(f"{official}.norm2", f"{ours}/norm2"),
    ]


def _gated_rows(stage: str) -> list[Row]:
    official, ours = f"{stage}.blocks.0.{{i}}.mlp", f"{stage}/transformer/blocks/mlp"
    return [
        *cut_layer(f"{official}.w12", f"{ours}/gate_up", 2),
        *layer(f"{official}.w3", f"{ours}/down"),
    ]
