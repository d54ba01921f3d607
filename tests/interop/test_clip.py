"""CLIP checkpoints: both layouts, sizes from shapes or from config.json, and what is refused."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from imgen.conditioning import clip as model_file
from imgen.errors import UserError
from imgen.interop import clip
from imgen.interop.table import to_official
from tests.conditioning.tiny_clip import random_params, tiny_clip

MODEL = tiny_clip()  # one head of OpenAI's width
CONFIG = {
    "text_config": {
        "vocab_size": 20,
        "max_position_embeddings": 8,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "hidden_act": "gelu",
        "eos_token_id": 2,
    },
    "vision_config": {
        "image_size": 8,
        "patch_size": 4,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 128,
        "layer_norm_eps": 1e-6,
    },
    "projection_dim": 24,
}


@pytest.fixture(scope="module")
def params():
    return random_params(MODEL)


@pytest.fixture(scope="module")
def states(params):
    buffers = {
        "huggingface": {"text_model.embeddings.position_ids": np.arange(8)[None]},
        "openai": {"input_resolution": np.array(8), "context_length": np.array(8)},
    }
    return {
        layout: to_official(getattr(clip, f"{layout}_rows")(), params) | buffers[layout]
        for layout in buffers
    }


def same(a, b) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("layout", ["huggingface", "openai"])
def test_size_and_parameters_come_from_either_layout(layout, states, params):
    model = clip.from_shapes(states[layout])
    assert model == MODEL
    same(clip.convert(states[layout], model), params)
    converted = clip.convert_clip(states[layout])
    assert converted.keys() == {k for k in states["huggingface"] if "position_ids" not in k}
    same(converted, {k: states["huggingface"][k] for k in converted})


def test_half_precision_is_read_as_float32(states):
    halves = {k: v.astype(np.float16) for k, v in states["openai"].items()}
    params = clip.convert(halves, MODEL)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}


def test_config_json_tells_what_shapes_do_not():
    model = clip.from_config(CONFIG)
    assert (model.text.heads, model.text.activation, model.text.end) == (4, "gelu", None)
    assert (model.image.heads, model.image.activation) == (2, "quick_gelu")
    assert (model.image.eps, model.text.eps) == (1e-6, 1e-5)
    named = CONFIG["text_config"] | {"eos_token_id": 7}
    assert clip.from_config(CONFIG | {"text_config": named}).text.end == 7
    published = clip.from_config({"text_config": {}, "vision_config": {}})
    assert model_file.size_name(published) == "clip_b32"
    with pytest.raises(UserError, match="'relu' is neither"):
        clip.from_config(CONFIG | {"vision_config": {"hidden_act": "relu"}})
    with pytest.raises(UserError, match="no text_config"):
        clip.from_config({"architecture": "vit_large_patch14_clip_336"})


def test_a_folder_with_its_config_is_loaded(tmp_path, states, params, caplog):
    save_file(states["huggingface"], tmp_path / "model.safetensors")
    save_file(states["openai"], tmp_path / "open_clip_model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    for path in (tmp_path, tmp_path / "open_clip_model.safetensors"):
        model, loaded = clip.load(path)
        assert model == clip.from_config(CONFIG)
        same(loaded, params)
    assert not caplog.records
    (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"it has open_clip_model\.safetensors, other\.safetensors"):
        clip.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json: not a configuration"):
        clip.load(tmp_path / "other.safetensors")


def test_a_file_alone_must_have_a_size_of_openais_whose_activation_is_assumed_aloud(
    tmp_path, states, params, monkeypatch, caplog
):
    path = tmp_path / "clip.safetensors"
    save_file(states["openai"], path)
    with pytest.raises(UserError, match="not the size of one of OpenAI's.*config.json"):
        clip.load(path)
    tower = (64, 2, 1)
    monkeypatch.setitem(model_file.SIZES, "clip_tiny", (8, 4, tower, tower, 24))
    small = clip.from_shapes(states["openai"])
    monkeypatch.setattr(model_file, "preset", lambda *_: small)
    model, loaded = clip.load(path)
    assert model == small
    same(loaded, params)
    assert "clip.safetensors has no config.json" in caplog.text and "quick_gelu" in caplog.text


def test_what_is_no_such_clip_is_refused_in_a_line(states, tmp_path):
    state = states["openai"]
    without = {k: v for k, v in state.items() if k != "transformer.resblocks.1.mlp.c_proj.bias"}
    resnet = {k: v for k, v in state.items() if not k.startswith("visual.")}
    resnet["visual.conv1.weight"] = np.zeros((8, 3, 3, 3), np.float32)
    wide = state | {"visual.transformer.resblocks.1.ln_1.bias": np.zeros(65, np.float32)}
    for broken, message in (
        (without, "lacks transformer.resblocks.1.mlp.c_proj.bias"),
        (resnet, "lacks visual.positional_embedding: is it a CLIP with a vision transformer"),
        (state | {"logit_bias": np.zeros(())}, "no place for: logit_bias"),
        (wide, r"visual.transformer.resblocks.*cannot be converted"),
        (state | {"visual.conv1.weight": np.zeros((8, 8))}, "not 4 axes"),
        ({"text_model.final_layer_norm.weight": np.zeros(8)}, "it is no whole CLIP"),
    ):
        with pytest.raises(UserError, match=message) as raised:
            clip.convert_clip(broken)
        assert "\n" not in str(raised.value)
    (tmp_path / "ViT-B-32.pt").write_bytes(b"")
    for path in (None, tmp_path / "gone.safetensors", tmp_path, tmp_path / "ViT-B-32.pt"):
        with pytest.raises(UserError, match=r"clip-vit-large-patch14-336.*imgen\.convert"):
            clip.load(path)
