"""RandAR's generator: official state dict <-> our parameters (`RandAR/model/randar_gpt.py`)."""

from collections.abc import Mapping
from typing import Any

from imgen.generators import Generator, make_generator
from imgen.interop import llamagen
from imgen.interop.table import Row
from imgen.latents import LatentSpec


def generator_from_config(
    config: Mapping[str, Any], grid: tuple[int, ...], steps: int | None = None
) -> Generator:
    """The Generator of an official configuration, without dropout; `steps`: parallel decoding."""
    return make_generator(
        LatentSpec("index", grid, config["vocab_size"]),
        plan="random",
        plan_options={},
        decoding=None if steps is None else dict(steps=steps),
        conditioning=dict(name="class", num_classes=config["num_classes"]),
        width=config["dim"],
        depth=config["n_layer"],
        heads=config["n_head"],
        dropout=0.0,
    )


def rows(generator: Generator) -> list[Row]:
    """The conversion table: LlamaGen's and the vector of the queries."""
    return [*llamagen.rows(generator), Row("pos_instruct_embeddings", "query")]
