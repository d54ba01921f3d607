"""CLIP checkpoints <-> our `CLIP`, in both layouts, which `load` reads as they are.

Sources: openai/CLIP, clip/model.py, whose names open_clip shares (`visual.transformer.resblocks...`);
transformers, models/clip/modeling_clip.py and configuration_clip.py (`vision_model.encoder.layers...`).

A Hugging Face folder's config.json says how many heads there are and which activation. Files in OpenAI's
layout have nothing but weights; its four vision transformers have heads 64 wide and quick_gelu, and their
sizes follow from the shapes. The files that OpenAI published (ViT-B-32.pt) are TorchScript archives, which no
loader without code opens: the same weights are on the Hugging Face hub.
"""

import itertools
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from imgen.conditioning.clip import CLIP, SIZES, ImageTower, TextTower, abstract_params, size_name
from imgen.errors import UserError
from imgen.interop.files import read_arrays
from imgen.interop.system import System
from imgen.interop.table import (
    CONV,
    LINEAR,
    Row,
    Transform,
    from_official,
    layer,
    norm,
    to_official,
)
from imgen.interop.titok import block_rows

log = logging.getLogger("imgen.interop.clip")
WHERE = (
    "take openai/clip-vit-large-patch14-336 (for CMMD) or openai/clip-vit-base-patch32 (for CLIPScore) from "
    "the Hugging Face hub, model.safetensors as it is, or pytorch_model.bin after python -m imgen.convert "
    "--system clip --checkpoint FILE --out DIR"
)
IGNORED = (
    r"(text|vision)_model\.embeddings\.position_ids",
    r"input_resolution|context_length|vocab_size",
)
HEAD_WIDTH = 64  # of OpenAI's models

# What config.json leaves out (transformers, configuration_clip.py).
TEXT_DEFAULTS = {
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "hidden_size": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "eos_token_id": 49407,
}
IMAGE_DEFAULTS = {
    "image_size": 224,
    "patch_size": 32,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
OLD_END = 2  # eos_token_id of old configurations, which stands for: the largest id

QKV = Transform(  # three [D, D] <-> [D, 3, D]
    lambda q, k, v: np.stack([q.T, k.T, v.T], axis=1), lambda w: tuple(w.transpose(1, 2, 0))
)
QKV_BIAS = Transform(lambda q, k, v: np.stack([q, k, v]), tuple)


def huggingface_rows() -> list[Row]:
    """The table of transformers' layout."""
    image, text = "vision_model.embeddings", "text_model.embeddings"
    return [
        Row("logit_scale", "logit_scale"),
        Row("visual_projection.weight", "image_projection/kernel", LINEAR),
        Row("text_projection.weight", "text_projection/kernel", LINEAR),
        Row(f"{image}.class_embedding", "image/class_token"),
        Row(f"{image}.patch_embedding.weight", "image/patch_embed/kernel", CONV),
        Row(f"{image}.position_embedding.weight", "image/positions"),
        *norm("vision_model.pre_layrnorm", "image/ln_pre"),
        *norm("vision_model.post_layernorm", "image/ln_post"),
        *_layer_rows("vision_model", "image"),
        Row(f"{text}.token_embedding.weight", "text/table/embedding"),
        Row(f"{text}.position_embedding.weight", "text/positions"),
        *norm("text_model.final_layer_norm", "text/ln_final"),
        *_layer_rows("text_model", "text"),
    ]


def _layer_rows(official: str, ours: str) -> list[Row]:
    official, ours = f"{official}.encoder.layers.{{i}}", f"{ours}/transformer/blocks"
    parts = [f"{official}.self_attn.{name}_proj" for name in "qkv"]
    return [
        *norm(f"{official}.layer_norm1", f"{ours}/norm1"),
        Row(tuple(f"{part}.weight" for part in parts), f"{ours}/qkv/kernel", QKV),
        Row(tuple(f"{part}.bias" for part in parts), f"{ours}/qkv/bias", QKV_BIAS),
        *layer(f"{official}.self_attn.out_proj", f"{ours}/out"),
        *norm(f"{official}.layer_norm2", f"{ours}/norm2"),
        *layer(f"{official}.mlp.fc1", f"{ours}/up"),
        *layer(f"{official}.mlp.fc2", f"{ours}/down"),
    ]


def openai_rows() -> list[Row]:
    """The table of OpenAI's and open_clip's layout. The projections are [in, out] there too."""
    return [
        Row("logit_scale", "logit_scale"),
        Row("visual.proj", "image_projection/kernel"),
        Row("text_projection", "text_projection/kernel"),
        Row("visual.class_embedding", "image/class_token"),
        Row("visual.conv1.weight", "image/patch_embed/kernel", CONV),
        Row("visual.positional_embedding", "image/positions"),
        *norm("visual.ln_pre", "image/ln_pre"),
        *norm("visual.ln_post", "image/ln_post"),
        *block_rows("visual.transformer.resblocks.{i}", "image/transformer/blocks"),
        Row("token_embedding.weight", "text/table/embedding"),
        Row("positional_embedding", "text/positions"),
        *norm("ln_final", "text/ln_final"),
        *block_rows("transformer.resblocks.{i}", "text/transformer/blocks"),
    ]


def from_config(config: Mapping[str, Any]) -> CLIP:
    """The model of a Hugging Face config.json. Raises UserError where it is none of CLIP."""
    if "text_config" not in config or "vision_config" not in config:
        raise UserError(
            "config.json has no text_config and vision_config: it is not transformers' of a CLIP"
        )
    text, image = TEXT_DEFAULTS | config["text_config"], IMAGE_DEFAULTS | config["vision_config"]
    end = text["eos_token_id"]
    return CLIP(
        ImageTower(image["image_size"], image["patch_size"], *_tower(image)),
        TextTower(
            text["vocab_size"],
            text["max_position_embeddings"],
            *_tower(text),
            end=None if end == OLD_END else end,
        ),
        config.get("projection_dim", 512),
    )


def _tower(config: Mapping[str, Any]) -> tuple:
    """width, depth, heads, hidden, activation, eps"""
    activation = config["hidden_act"]
    if activation not in ("quick_gelu", "gelu"):
        raise UserError(f"config.json: hidden_act {activation!r} is neither quick_gelu nor gelu")
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    return (*(config[name] for name in sizes), activation, config["layer_norm_eps"])


def from_shapes(state: Mapping[str, np.ndarray]) -> CLIP:
    """The model that a state dict in either layout belongs to, were it OpenAI's.

    Raises UserError where it belongs to no CLIP with a vision transformer.
    """
    rows = {row.ours: row for row in _rows(state)}

    def shape(path: str, axes: int) -> tuple[int, ...]:
        row = rows[path]
        key = row.official.format(i=0)
        if key not in state:
            raise UserError(
                f"the checkpoint lacks {key}: is it a CLIP with a vision transformer, both towers of it?"
            )
        tensor = np.asarray(state[key])
        if tensor.ndim != axes:
            raise UserError(f"{key} has the shape {tensor.shape}, not {axes} axes as in a CLIP")
        return row.transform.to_ours(tensor).shape

    def depth(half: str) -> int:
        key = rows[f"{half}/transformer/blocks/norm1/scale"].official
        return next(i for i in itertools.count() if key.format(i=i) not in state)

    def tower(half: str, width: int) -> tuple[int, int, int, int]:
        (hidden,) = shape(f"{half}/transformer/blocks/up/bias", 1)
        return width, depth(half), max(width // HEAD_WIDTH, 1), hidden

    patch, _, _, width = shape("image/patch_embed/kernel", 4)
    side = math.isqrt(shape("image/positions", 2)[0] - 1)
    vocab, text_width = shape("text/table/embedding", 2)
    return CLIP(
        ImageTower(side * patch, patch, *tower("image", width)),
        TextTower(vocab, shape("text/positions", 2)[0], *tower("text", text_width)),
        shape("image_projection/kernel", 2)[1],
    )


def _rows(state: Mapping[str, np.ndarray]) -> list[Row]:
    """The table of the layout that a state dict is in."""
    if "visual.conv1.weight" in state:
        return openai_rows()
    if "vision_model.embeddings.patch_embedding.weight" in state:
        return huggingface_rows()
    raise UserError(
        "the checkpoint has neither visual.conv1.weight (OpenAI, open_clip) nor "
        "vision_model.embeddings.patch_embedding.weight (Hugging Face): it is no whole CLIP"
    )


def convert(state: Mapping[str, np.ndarray], model: CLIP) -> dict[str, Any]:
    """A state dict in either layout -> parameters, float32.

    Raises UserError for missing, unknown and misshapen keys.
    """
    return from_official(_rows(state), state, abstract_params(model), IGNORED)


def convert_clip(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A state dict in either layout -> Hugging Face's, float32 and without buffers, as `imgen.convert` writes
    it; other than OpenAI's models need their config.json beside them.

    Raises UserError for missing, unknown and misshapen keys.
    """
    return to_official(huggingface_rows(), convert(state, from_shapes(state)))


SYSTEM = System(None, convert_clip, None, where=WHERE)


def load(path: str | Path | None) -> tuple[CLIP, dict[str, Any]]:
    """The model and its parameters, from a .safetensors or .npz file in either layout or a folder with one.

    A config.json beside the weights is followed. Without one the file must have the size of one of OpenAI's
    models, and is taken for it, quick_gelu and all, with a warning: many of LAION's have another activation.

    Raises UserError, with the way to the public weights where none are named or there.
    """
    path = None if path is None else Path(path).expanduser()
    if path is None or not path.exists():
        missing = (
            "no weights of CLIP are named" if path is None else f"{path}: no such file or folder"
        )
        raise UserError(f"{missing}; {WHERE}")
    path = _weights_in(path) if path.is_dir() else path
    if path.suffix not in (".safetensors", ".npz"):
        raise UserError(
            f"{path}: CLIP's weights are read from .safetensors and .npz files; {WHERE}"
        )
    state = read_arrays(path)
    config = path.with_name("config.json")
    if config.is_file():
        try:
            model = from_config(json.loads(config.read_text("utf-8")))
        except (ValueError, TypeError) as e:
            raise UserError(f"{config}: not a configuration of a CLIP ({e})") from e
    else:
        model = from_shapes(state)
        if size_name(model) is None:
            raise UserError(
                f"{path} has not the size of one of OpenAI's models ({', '.join(SIZES)}): put its "
                "config.json of the Hugging Face hub beside it, which tells heads and activation"
            )
        log.warning(
            "%s has no config.json beside it, so its activation is assumed to be OpenAI's, %s: weights "
            "trained with gelu, as many of LAION's, would give wrong numbers: put their config.json there",
            path, model.image.activation,
        )  # fmt: skip
    return model, convert(state, model)


def _weights_in(folder: Path) -> Path:
    found = sorted(folder.glob("*.safetensors"))
    preferred = folder / "model.safetensors"
    if preferred in found:
        return preferred
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise UserError(
            f"{folder}: one .safetensors file is read from a folder, and it has {names}; name one, or {WHERE}"
        )
    return found[0]
