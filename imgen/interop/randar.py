"""RandAR's generator: official state dict <-> our parameters (`RandAR/model/randar_gpt.py`)."""

from collections.abc import Mapping
from typing import Any

from imgen.generators import Generator, make_generator
from imgen.interop import llamagen
from imgen.interop.table import Row
from imgen.latents import LatentSpec
from imgen.nn.mlp import swiglu_hidden


def generator_from_config(config: Mapping[str, Any], grid: tuple[int, ...]) -> Generator:
    """Returns the Generator of an official configuration, without dropout."""
    return make_generator(
        LatentSpec("index", grid, config["vocab_size"]),
        plan="random",
        plan_options={},
        conditioning=dict(name="class", num_classes=config["num_classes"]),
        width=config["dim"],
        depth=config["n_layer"],
        heads=config["n_head"],
        hidden=swiglu_hidden(config["dim"], config.get("multiple_of", 256)),
        dropout=0.0,
    )


def rows(generator: Generator) -> list[Row]:
    """The conversion table: LlamaGen's and the vector of the queries."""
    return [*llamagen.rows(generator), Row("pos_instruct_embeddings", "query")]
