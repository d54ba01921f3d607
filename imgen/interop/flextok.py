"""FlexTok's checkpoints (`model.safetensors` of the released models) <-> our `FlexTok`, without its VAE.

Source: apple/ml-flextok. Module names are those of the released checkpoints where they are known. The
VAE's own weights stand under `vae.` there and are converted with the VAE. The sin-cos tables, which the
official model keeps as parameters that don't train, are computed here: `buffers` gives them back.
"""

import numpy as np

from imgen.interop.table import LINEAR, Row, Transform, layer
from imgen.nn.positions import sincos_2d
from imgen.tokenizers.flextok import FlexTok

ENCODER, DECODER = "encoder.module_dict", "decoder.module_dict"
TABLES = (f"{ENCODER}.enc_posemb_module.posembs", f"{DECODER}.dec_patches_posemb_module.posembs")
IGNORED = (r"vae\..*", r"(encoder|decoder)\.module_dict\.\w*posemb_module\.posembs")


def rows(model: FlexTok) -> list[Row]:
    """The table for a model of these head widths."""
    table = [
        Row(f"{ENCODER}.enc_register_module.registers", "encoder/registers"),
        *layer(f"{ENCODER}.enc_patch_emb.patch_proj", "encoder/patches"),
        *_transformer(f"{ENCODER}.enc_transformer", "encoder/transformer", model.head_dim),
        *layer(f"{ENCODER}.enc_to_latents.proj", "encoder/head"),
        *layer(f"{DECODER}.dec_from_latents.proj", "decoder/from_values"),
        Row(
            f"{DECODER}.dec_registers_posemb_module.posembs",
            "decoder/positions",
            Transform(lambda w: w[0, 0].T, lambda w: w.T[None, None]),  # [1, 1, D, K], [K, D]
        ),
        Row(f"{DECODER}.dec_nested_dropout.dropout_mask_token", "decoder/mask_token"),
        Row(f"{DECODER}.dec_latent_dropout.nullcond", "decoder/null_token"),
        *layer(f"{DECODER}.dec_noise_patch_emb.patch_proj", "decoder/patches"),
        *layer(f"{DECODER}.dec_time_embedder.mlp.0", "decoder/time/in"),
        *layer(f"{DECODER}.dec_time_embedder.mlp.2", "decoder/time/out"),
        *_transformer(f"{DECODER}.dec_transformer", "decoder/transformer", model.head_dim),
        *layer(f"{DECODER}.dec_to_patches.proj", "decoder/head"),
    ]
    if model.final_modulation:
        table += _modulation(f"{DECODER}.dec_to_patches", "decoder/modulation", (2,))
    return table


def buffers(model: FlexTok, grid: tuple[int, int]) -> dict[str, np.ndarray]:
    """The official sin-cos tables [1, D, *grid], for the grid of patches that they were made for."""
    widths = (model.encoder_width, model.decoder_width)
    return {
        key: sincos_2d(grid, width).transpose(2, 0, 1)[None]
        for key, width in zip(TABLES, widths, strict=True)
    }


def _modulation(official: str, ours: str, parts: tuple[int, ...]) -> list[Row]:
    """One linear layer that gives prod(parts) vectors one behind the other."""
    count = int(np.prod(parts))
    kernel = Transform(
        lambda w: w.T.reshape(w.shape[1], *parts, w.shape[0] // count),
        lambda w: w.reshape(w.shape[0], -1).T,
    )
    bias = Transform(lambda b: b.reshape(*parts, -1), np.ravel)
    return [
        Row(f"{official}.adaLN_modulation.1.weight", f"{ours}/linear/kernel", kernel),
        Row(f"{official}.adaLN_modulation.1.bias", f"{ours}/linear/bias", bias),
    ]


def _transformer(official: str, ours: str, head_dim: int) -> list[Row]:
    def join_qkv(*weights: np.ndarray) -> np.ndarray:  # three [D, D] -> [D, 3, heads, head_dim]
        width = weights[0].shape[1]
        return np.stack([w.T.reshape(width, -1, head_dim) for w in weights], axis=1)

    def split_qkv(kernel: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(kernel[:, i].reshape(len(kernel), -1).T for i in range(3))

    block, blocks = f"{official}.blocks.{{i}}", f"{ours}/blocks"
    gate_up = Transform(
        lambda gate, up: np.stack([gate.T, up.T], axis=1),  # two [F, D] -> [D, 2, F]
        lambda kernel: (kernel[:, 0].T, kernel[:, 1].T),
    )
    out = Transform(
        lambda w: w.T.reshape(-1, head_dim, w.shape[0]),  # [D, D] -> [heads, head_dim, D]
        lambda kernel: kernel.reshape(-1, kernel.shape[-1]).T,
    )
    return [
        Row(
            tuple(f"{block}.attn.w{part}.weight" for part in "qkv"),
            f"{blocks}/attention/qkv/kernel",
            Transform(join_qkv, split_qkv),
        ),
        Row(f"{block}.attn.proj.weight", f"{blocks}/attention/out/kernel", out),
        Row(
            (f"{block}.mlp.fc1.weight", f"{block}.mlp.fc3.weight"),
            f"{blocks}/mlp/gate_up/kernel",
            gate_up,
        ),
        Row(f"{block}.mlp.fc2.weight", f"{blocks}/mlp/down/kernel", LINEAR),
        *_modulation(block, f"{blocks}/modulation", (2, 6)),
    ]
