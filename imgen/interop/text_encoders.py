"""Frozen text encoders of local Hugging Face folders: T5 v1.1 and FLAN, BERT's family, CLIP's text tower, and
the hidden states of a Llama-like language model.

Strict: a key that is missing or has no place, other sizes, or the vocabulary of another model is an error.
Sources of the layouts: transformers, models/{t5,bert,clip,llama,olmo}.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from imgen.conditioning import clip_bpe
from imgen.conditioning.text import subwords
from imgen.conditioning.text.bert import Bert, BertConfig
from imgen.conditioning.text.clip_text import ClipText, Pairs
from imgen.conditioning.text.encoder import FrozenEncoder
from imgen.conditioning.text.lm import LM, LMConfig
from imgen.conditioning.text.t5 import T5, T5Config
from imgen.conditioning.text.tokens import Tokenizer
from imgen.errors import UserError, did_you_mean
from imgen.interop import clip
from imgen.interop.huggingface import read_json, read_model_config, read_state
from imgen.interop.table import LINEAR, Row, from_official, layer, norm
from imgen.params.files import fingerprint

State = Mapping[str, np.ndarray]
SPARE_ROWS = 256  # a table's rows are the vocabulary's, filled up to a round number


def t5_rows() -> list[Row]:
    """Returns the table of T5's encoder."""
    block, ours = "encoder.block.{i}", "blocks"
    attention, dense = f"{block}.layer.0.SelfAttention", f"{block}.layer.1.DenseReluDense"
    names = {f"{attention}.{name}": name for name in "qkv"} | {
        f"{attention}.o": "out", f"{dense}.wi_0": "gate", f"{dense}.wi_1": "up", f"{dense}.wo": "down"
    }  # fmt: skip
    bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    return [
        Row("shared.weight", "table/embedding"),
        Row(bias, "relative"),
        Row("encoder.final_layer_norm.weight", "norm/scale"),
        Row(f"{block}.layer.0.layer_norm.weight", f"{ours}/norm1/scale"),
        Row(f"{block}.layer.1.layer_norm.weight", f"{ours}/norm2/scale"),
        *(Row(f"{key}.weight", f"{ours}/{name}/kernel", LINEAR) for key, name in names.items()),
    ]


def bert_rows() -> list[Row]:
    """Returns the table of BERT's encoder."""
    block = "encoder.layer.{i}"
    names = {f"attention.self.{name}": name[0] for name in ("query", "key", "value")} | {
        "attention.output.dense": "out", "intermediate.dense": "up", "output.dense": "down"
    }  # fmt: skip
    tables = {"word": "table", "position": "positions", "token_type": "segments"}
    return [
        *(
            Row(f"embeddings.{key}_embeddings.weight", f"{name}/embedding")
            for key, name in tables.items()
        ),
        *norm("embeddings.LayerNorm", "norm"),
        *norm(f"{block}.attention.output.LayerNorm", "blocks/norm1"),
        *norm(f"{block}.output.LayerNorm", "blocks/norm2"),
        *(row for key, name in names.items() for row in layer(f"{block}.{key}", f"blocks/{name}")),
    ]


def lm_rows(norms: bool) -> list[Row]:
    """Returns the table of a Llama-like model. norms: whether they have parameters."""
    block = "model.layers.{i}"
    names = {f"self_attn.{name}_proj": name for name in "qkv"} | {"self_attn.o_proj": "out"}
    names |= {f"mlp.{name}_proj": name for name in ("gate", "up", "down")}
    rows = [
        Row("model.embed_tokens.weight", "table/embedding"),
        *(
            Row(f"{block}.{key}.weight", f"blocks/{name}/kernel", LINEAR)
            for key, name in names.items()
        ),
    ]
    if norms:
        rows += [
            Row("model.norm.weight", "norm/scale"),
            Row(f"{block}.input_layernorm.weight", "blocks/norm1/scale"),
            Row(f"{block}.post_attention_layernorm.weight", "blocks/norm2/scale"),
        ]
    return rows


def abstract_params(module: nn.Module) -> Any:
    """Returns shapes of an encoder's parameters."""
    ids = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    mask = jax.ShapeDtypeStruct((1, 2), jnp.bool_)
    return jax.eval_shape(module.init, jax.random.key(0), ids, mask)["params"]


def convert_t5(state: State, module: T5) -> Any:
    """Converts a T5's state dict, without its decoder. Raises UserError, naming keys."""
    state = dict(state)
    alias = state.pop("encoder.embed_tokens.weight", None)
    if alias is not None:
        state.setdefault("shared.weight", alias)
    ignored = (r"decoder\..*", r"lm_head\..*")
    return from_official(t5_rows(), state, abstract_params(module), ignored)


def convert_bert(state: State, module: Bert) -> Any:
    """Converts a BERT's state dict, with or without the prefix of a larger model. Raises UserError, naming
    keys."""
    prefixed = "bert.embeddings.word_embeddings.weight" in state
    state = {key.removeprefix("bert.") if prefixed else key: x for key, x in state.items()}
    ignored = (r"embeddings\.position_ids", r"pooler\..*", r"cls\..*", r"classifier\..*")
    return from_official(bert_rows(), state, abstract_params(module), ignored)


def convert_lm(state: State, module: LM) -> Any:
    """Converts a Llama-like model's state dict, without its head. Raises UserError, naming keys."""
    prefixed = any(key.startswith("model.") for key in state)
    state = {key if prefixed else f"model.{key}": x for key, x in state.items()}
    ignored = (r"(model\.)?lm_head\..*", r".*\.rotary_emb\.inv_freq")
    rows = lm_rows(module.config.norm == "rms")
    return from_official(rows, state, abstract_params(module), ignored)


def load_text_encoder(
    folder: str | Path, *, length: int | None = None, dtype: Any = jnp.float32
) -> FrozenEncoder:
    """Reads the encoder of a folder with config.json, .safetensors and the tokenizer's file.

    length: the most tokens of a text; None: the model's own (T5: 120, as LlamaGen and NAR have it; BERT's
    family: sentence_bert_config.json's or all positions; CLIP: 77; language models: 128, as Instella). dtype:
    of the computation; bfloat16 halves a T5's memory.

    Raises UserError, in one line, for a wrong or partial folder and for the vocabulary of another model.
    """
    folder = Path(folder).expanduser()
    config = read_model_config(folder)
    kind = config["model_type"]
    if kind not in LOADERS:
        near = did_you_mean(kind, list(LOADERS)) or f"there are {', '.join(LOADERS)}"
        raise UserError(f"{folder}: no text encoder is built for model_type {kind!r}; {near}")
    try:
        module, params, tokenizer, rows = LOADERS[kind](folder, config, length, dtype)
    except UserError as error:
        inside = str(error) if str(folder) in str(error) else f"{folder}: {error}"
        raise UserError(inside) from error
    _check_vocabulary(folder, tokenizer, rows, config)
    name = f"{kind}:{folder.resolve().name}"
    return FrozenEncoder(name, tokenizer, module, params, tokenizer.length, fingerprint(params))


def _check_vocabulary(folder: Path, tokenizer: Tokenizer, rows: int, config: Mapping) -> None:
    """Raises UserError where a tokenizer's ids are not those of the model's table."""
    if not rows - SPARE_ROWS <= tokenizer.vocab <= rows:
        raise UserError(
            f"{folder}: its tokenizer has {tokenizer.vocab} ids and its model {rows}: the vocabulary is of "
            "another model; copy both from one place"
        )
    for role in ("pad", "end"):
        named = config.get({"pad": "pad_token_id", "end": "eos_token_id"}[role])
        ours = tokenizer.specials.get(role)
        if None not in (named, ours) and config["model_type"] in ("t5", "bert") and named != ours:
            raise UserError(
                f"{folder}: {role} is {ours} in its tokenizer and {named} in config.json: the vocabulary is "
                "of another model; copy both from one place"
            )


Loaded = tuple[nn.Module, Any, Tokenizer, int]


def _t5(folder: Path, config: Mapping, length: int | None, dtype: Any) -> Loaded:
    module = T5(T5Config.read(config), dtype)
    wanted = re.compile(r"shared\.|encoder\.").match
    state = read_state(folder, lambda key: wanted(key) is not None)
    tokenizer = subwords.read_t5(folder, length or 120)
    return module, convert_t5(state, module), tokenizer, module.config.vocab_size


def _bert(folder: Path, config: Mapping, length: int | None, dtype: Any) -> Loaded:
    module = Bert(BertConfig.read(config), dtype)
    most = module.config.max_position_embeddings
    own = folder / "sentence_bert_config.json"
    if length is None:
        length = read_json(own).get("max_seq_length", most) if own.is_file() else most
    if length > most:
        raise UserError(f"texts of {length} tokens are asked for; this BERT reads up to {most}")
    tokenizer = subwords.read_wordpiece(folder, length)
    return module, convert_bert(read_state(folder), module), tokenizer, module.config.vocab_size


def _clip(folder: Path, config: Mapping, length: int | None, dtype: Any) -> Loaded:
    if config["model_type"] == "clip":
        model, params = clip.load(folder)
        tower, params = model.text, params["text"]
    else:
        tower = clip.from_config({"text_config": config, "vision_config": {}}).text
        rows = [row for row in clip.huggingface_rows() if str(row.ours).startswith("text/")]
        like = {"text": abstract_params(ClipText(tower))["tower"]}
        ignored = (*clip.IGNORED, r"text_projection\.weight")
        params = from_official(rows, read_state(folder), like, ignored)["text"]
    if (length or 0) > tower.length:
        raise UserError(
            f"texts of {length} tokens are asked for; this CLIP reads up to {tower.length}"
        )
    tokenizer = Pairs(clip_bpe.load(folder), length or tower.length)
    return ClipText(tower), {"tower": params}, tokenizer, tower.vocab


def _lm(folder: Path, config: Mapping, length: int | None, dtype: Any) -> Loaded:
    module = LM(LMConfig.read(config), dtype)
    tokenizer = subwords.read_lm(folder, length or 128, config)
    return module, convert_lm(read_state(folder), module), tokenizer, module.config.vocab_size


LOADERS: dict[str, Callable[..., Loaded]] = {
    "t5": _t5,
    "bert": _bert,
    "clip": _clip,
    "clip_text_model": _clip,
    "llama": _lm,
    "olmo": _lm,
}
