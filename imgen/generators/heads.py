"""All heads by name, and how one is made for the latents of a tokenizer."""

from collections.abc import Mapping
from typing import Any

from imgen.config.construct import construct
from imgen.errors import UserError
from imgen.generators.code_heads import BernoulliHead, CategoricalHead, SubCodeHead
from imgen.generators.denoising_heads import DiffusionHead, FlowHead
from imgen.generators.head import Head
from imgen.latents import LatentSpec

HEADS = {
    "categorical": CategoricalHead,
    "subcodes": SubCodeHead,
    "bernoulli": BernoulliHead,
    "diffusion": DiffusionHead,
    "flow": FlowHead,
}
LATENTS = {
    "categorical": "index",
    "subcodes": "bits",
    "bernoulli": "bits",
    "diffusion": "continuous",
    "flow": "continuous",
}
DEFAULT_HEADS = {"index": "categorical", "bits": "bernoulli", "continuous": "flow"}


def make_head(spec: LatentSpec, name: str | None, options: Mapping[str, Any], **given: Any) -> Head:
    """Returns a head for the latents of `spec`: key of HEADS, by default that of DEFAULT_HEADS, and its
    options; given: the fields of `Head`. Raises UserError for one that doesn't fit."""
    name = name or DEFAULT_HEADS[spec.kind]
    if name not in HEADS:
        raise UserError(f"generator.head {name!r} is none of {', '.join(HEADS)}")
    if spec.kind != LATENTS[name]:
        fitting = [head for head, kind in LATENTS.items() if kind == spec.kind]
        raise UserError(
            f"a {name} head needs {LATENTS[name]} latents; this tokenizer gives {spec.kind} "
            f"(heads for those: {', '.join(fitting)})"
        )
    size = {"index": "size", "bits": "bits", "continuous": "channels"}[spec.kind]
    return construct(HEADS[name], options, "generator.head_options", **{size: spec.size}, **given)
