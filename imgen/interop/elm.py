"""ELM's autoregressive transformer: official state dict <-> our parameters (`llama/ar_model.py`)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from imgen.generators import Generator, make_generator
from imgen.interop.llamagen import block_rows
from imgen.interop.table import Row, Transform
from imgen.latents import LatentSpec
from imgen.nn.mlp import swiglu_hidden


def generator_from_config(config: Mapping[str, Any], grid: tuple[int, ...]) -> Generator:
    """The Generator of an official configuration, without dropout (for inference)."""
    parts, width = config["token_each"], config["code_dim"]
    return make_generator(
        LatentSpec("bits", grid, parts * width),
        plan="raster",
        plan_options={},
        head="subcodes",
        head_options=dict(parts=parts),
        conditioning=dict(name="class", num_classes=config["num_classes"]),
        width=config["dim"],
        depth=config["n_layer"],
        heads=config["n_head"],
        hidden=swiglu_hidden(config["dim"], config["multiple_of"]),
        dropout=0.0,
    )


def rows(generator: Generator) -> list[Row]:
    """The conversion table. A single sub-code has one table and no projection."""
    parts, width = generator.head.parts, generator.width
    if parts == 1:
        codes = [
            Row("tok_embedder.weight", "tokens/embedding", FIRST),
            Row("output.weight", "head_0/outputs/kernel", _outputs(1)),
        ]
    else:
        proj = Transform(  # [D, t D] <-> [t, D, D]
            lambda w: w.T.reshape(parts, width, width),
            lambda w: w.reshape(parts * width, width).T,
        )
        codes = [
            Row("tok_embedder.{part}.weight", "tokens/embedding"),
            Row("proj.weight", "tokens/proj/kernel", proj),
            Row(
                tuple(f"output.{part}.weight" for part in range(parts)),
                "head_0/outputs/kernel",
                _outputs(parts),
            ),
        ]
    return [
        Row("cls_embedding.embedding_table.weight", "conditioner/table/embedding"),
        *codes,
        Row("norm.weight", "norm_0/scale"),
        *block_rows(generator, "layers.{i}", "transformer/blocks_0", lambda t: t),
    ]


FIRST = Transform(lambda x: x[None], lambda x: x[0])


def _outputs(parts: int) -> Transform:
    """A matrix [2^c, D] for each sub-code <-> [D, t, 2^c]."""

    def to_official(w: np.ndarray):
        matrices = tuple(w[:, part].T for part in range(parts))
        return matrices if parts > 1 else matrices[0]

    return Transform(lambda *ws: np.stack([w.T for w in ws], axis=1), to_official)
