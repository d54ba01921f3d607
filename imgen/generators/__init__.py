"""Models over latents."""

from imgen.generators.build import HEADS, build_model, make_generator, make_xar
from imgen.generators.entities import ENTITIES
from imgen.generators.generator import Generator
from imgen.generators.model import LatentModel, Loss
from imgen.generators.plan import Plan
from imgen.generators.xar import XAR

__all__ = [
    "ENTITIES",
    "HEADS",
    "XAR",
    "Generator",
    "LatentModel",
    "Loss",
    "Plan",
    "build_model",
    "make_generator",
    "make_xar",
]
