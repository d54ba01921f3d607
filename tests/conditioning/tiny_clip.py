"""A CLIP that is quick to run, with random parameters."""

import json
from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import save_file

from imgen.conditioning.clip import CLIP, ImageTower, TextTower, abstract_params
from imgen.interop import clip
from imgen.interop.table import to_official


def tiny_clip(vocab=20, length=8, width=64, depth=2, heads=1, **text) -> CLIP:
    return CLIP(
        ImageTower(8, 4, width, depth, heads, 2 * width),
        TextTower(vocab, length, width, depth, heads, 2 * width, **text),
        width=24,
    )


def random_params(model: CLIP, seed: int = 0, scale: float = 0.2) -> dict:
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: scale * rng.standard_normal(leaf.shape).astype(np.float32),
        abstract_params(model),
    )


def write_clip(folder: Path, vocab: int = 20, length: int = 8, seed: int = 1) -> str:
    """Writes a folder as of the Hugging Face hub: model.safetensors and config.json."""
    model = tiny_clip(vocab, length)
    folder.mkdir()
    state = to_official(clip.huggingface_rows(), random_params(model, seed))
    save_file(state, folder / "model.safetensors")
    tower = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1}
    tower["intermediate_size"] = 128
    config = {
        "text_config": tower | {"vocab_size": vocab, "max_position_embeddings": length},
        "vision_config": tower | {"image_size": 8, "patch_size": 4},
        "projection_dim": model.width,
    }
    config["text_config"]["eos_token_id"] = clip.OLD_END
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)
