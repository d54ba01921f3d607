"""Tiny text encoders as folders of the Hugging Face hub have them, with random weights."""

import json
from pathlib import Path

import numpy as np
import tokenizers
from safetensors.numpy import save_file

from imgen.conditioning.text.bert import Bert, BertConfig
from imgen.conditioning.text.lm import LM, LMConfig
from imgen.conditioning.text.t5 import T5, T5Config
from imgen.interop import text_encoders as interop
from imgen.interop.table import to_official
from imgen.params import paths

PIECES = "[PAD] [UNK] [CLS] [SEP] [MASK] a red blue circle square ##s above café".split()
BERT = dict(
    model_type="bert", vocab_size=len(PIECES), hidden_size=16, num_hidden_layers=2, pad_token_id=0,
    num_attention_heads=2, intermediate_size=24, max_position_embeddings=12,
)  # fmt: skip
LLAMA = dict(
    model_type="llama", vocab_size=40, hidden_size=16, num_hidden_layers=3, rms_norm_eps=1e-5,
    num_attention_heads=4, num_key_value_heads=2, intermediate_size=24, eos_token_id=1,
)  # fmt: skip


def random_params(module, seed: int = 0):
    """Normal, deviation 0.3, so that no layer is without effect."""
    rng = np.random.default_rng(seed)
    leaves = paths.flatten(interop.abstract_params(module))
    return paths.unflatten(
        {path: rng.normal(0, 0.3, leaf.shape).astype(np.float32) for path, leaf in leaves.items()}
    )


def bert_folder(folder: Path, **changes) -> Path:
    """A BERT of the vocabulary PIECES."""
    config = BERT | changes
    module = Bert(BertConfig.read(config))
    state = to_official(interop.bert_rows(), random_params(module))
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    return _write(folder, config, state)


def t5_folder(folder: Path) -> Path:
    """A T5 of three letters, in two files, with something of a decoder."""
    config = dict(
        model_type="t5", vocab_size=16, d_model=16, d_kv=6, d_ff=24, num_layers=2, num_heads=2,
        feed_forward_proj="gated-gelu", pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    state = to_official(interop.t5_rows(), random_params(T5(T5Config.read(config))))
    state["decoder.final_layer_norm.weight"] = np.ones(16, np.float32)
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("a", -1.0), ("b", -1.0), ("c", -1.0)]
    tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, 2)).save(str(folder / "tokenizer.json"))
    keys, files = sorted(state), ("model-1.safetensors", "model-2.safetensors")
    named = {key: files[n % 2] for n, key in enumerate(keys)}
    for name in files:
        tensors = {k: np.ascontiguousarray(state[k]) for k in keys if named[k] == name}
        save_file(tensors, folder / name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": named}))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def lm_folder(folder: Path, **changes) -> Path:
    """A Llama-like model whose tokenizer has a word for each letter."""
    config = LLAMA | changes
    module = LM(LMConfig.read(config))
    state = to_official(interop.lm_rows(module.config.norm == "rms"), random_params(module))
    letters = "abcdefghijklmnopqrstuvwxyz0123456789 .?"
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            {"?": 0} | {c: n for n, c in enumerate(letters[:-1], 1)}, [], unk_token="?"
        )
    )
    backend.save(str(folder / "tokenizer.json"))
    return _write(folder, config, state)


def _write(folder: Path, config: dict, state: dict[str, np.ndarray]) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    save_file({k: np.ascontiguousarray(v) for k, v in state.items()}, folder / "model.safetensors")
    return folder
