"""Models over latents."""

import jax.numpy as jnp

from imgen.conditioning import CONDITIONERS
from imgen.config.construct import construct
from imgen.errors import UserError
from imgen.generators import xar
from imgen.generators.bit_diffusion import BitDiffusion
from imgen.generators.entities import ENTITIES
from imgen.generators.generator import Generator
from imgen.generators.heads import HEADS, CategoricalHead, make_head
from imgen.generators.lexinvariant import MAX_VOCABULARY
from imgen.generators.orders import (
    masked,
    next_neighbour,
    parallel_groups,
    random_order,
    random_order_parallel,
    raster,
)
from imgen.generators.plan import Plan
from imgen.generators.windows import coarse_grid
from imgen.generators.xar import XAR
from imgen.latents import LatentSpec

# "token_shuffle" is raster order over windows, 2 x 2 unless `window` says otherwise.
PLANS = {
    "raster": raster,
    "nar": next_neighbour,
    "par": parallel_groups,
    "random": random_order,
    "masked": masked,
    "token_shuffle": raster,
}
# No plan, but the same choice: Instella's diffusion over all bits at once.
BIT_DIFFUSION = "bit_diffusion"
DECODING_PLANS = {"random": random_order_parallel, "masked": masked}
DEFAULT_HEADS = {"index": "categorical", "bits": "bernoulli", "continuous": "flow"}


def make_generator(
    spec: LatentSpec,
    *,
    plan: str,
    plan_options: dict,
    conditioning: dict,
    width: int,
    decoding: dict | None = None,
    head: str | None = None,
    head_options: dict | None = None,
    window: int | None = None,
    lexinvariant: float | None = None,
    **arguments,
) -> Generator | BitDiffusion:
    """A model over the latents of `spec`.

    plan: key of PLANS, or BIT_DIFFUSION; plan_options: further arguments of that function.
    decoding: arguments of the plan's function in DECODING_PLANS, which decodes in its place.
    head: key of HEADS, by default "categorical" for indices, "bernoulli" for bits and "flow" for continuous
        latents; head_options: its further arguments.
    conditioning: {"name": key of CONDITIONERS, ...the conditioner's own arguments}.
    window, lexinvariant, width and the other arguments are those of `Generator`.
    """
    if plan == BIT_DIFFUSION:
        if plan_options or decoding or head or head_options or window or lexinvariant:
            raise UserError(
                f"plan {plan} has neither options nor a head or windows: leave them out"
            )
        return _bit_diffusion(spec, conditioning, width, arguments)
    if plan not in PLANS:
        raise UserError(f"generator.plan {plan!r} is none of {', '.join((*PLANS, BIT_DIFFUSION))}")
    head = head or DEFAULT_HEADS[spec.kind]
    coding = make_head(spec, head, width, head_options or {})
    if coding.continuous and plan == "masked":
        raise UserError(
            f"plan masked decides by the confidence of logits and a {head} head has none: "
            "use raster, nar, par or random"
        )
    if window is None:
        window = 2 if plan == "token_shuffle" else 1
    if lexinvariant is not None:
        _check_lexinvariant(lexinvariant, coding, window)
    conditioner = _conditioner(conditioning, width, arguments)
    grid = coarse_grid(spec.grid, window)
    slots = dict(grid=grid, num_cond=conditioner.num_slots)
    if decoding is not None and plan not in DECODING_PLANS:
        raise UserError(f"plan {plan} decodes as it trains: generator.decoding must be None")
    parts = dict(plan=construct(PLANS[plan], plan_options, "generator.plan_options", **slots))
    if decoding is not None:
        parts["decoding_plan"] = construct(
            DECODING_PLANS[plan], decoding, "generator.decoding", **slots
        )
    return construct(
        Generator, arguments, "generator", **parts,
        coding=coding, conditioner=conditioner, width=width, window=window, lexinvariant=lexinvariant,
    )  # fmt: skip


def _conditioner(conditioning: dict, width: int, arguments: dict):
    conditioning = dict(conditioning)
    name = conditioning.pop("name", None)
    if name not in CONDITIONERS:
        raise UserError(
            f"generator.conditioning.name {name!r} is none of {', '.join(CONDITIONERS)}"
        )
    dtype = arguments.get("dtype", jnp.float32)
    return construct(
        CONDITIONERS[name], conditioning, "generator.conditioning", width=width, dtype=dtype
    )


def _bit_diffusion(spec: LatentSpec, conditioning: dict, width: int, arguments: dict):
    conditioner = _conditioner(conditioning, width, arguments)
    if spec.kind != "bits" or not conditioner.context_slots:
        raise UserError(
            f"plan {BIT_DIFFUSION} needs bits and a text for every layer (conditioning layer_text), "
            f"not {spec.kind} and {conditioning['name']}"
        )
    return construct(
        BitDiffusion, arguments, "generator",
        grid=spec.grid, bits=spec.size, conditioner=conditioner, width=width,
    )  # fmt: skip


def _check_lexinvariant(share: float, coding, window: int) -> None:
    if not 0 < share <= 1:
        raise UserError(f"generator.lexinvariant {share}: a share in (0, 1], or None")
    if not isinstance(coding, CategoricalHead) or window > 1:
        raise UserError(
            "lexinvariant vectors replace a table of indices: they need a categorical head and no windows"
        )
    if coding.size > MAX_VOCABULARY:
        raise UserError(
            f"lexinvariant vectors are drawn for every sequence: at most {MAX_VOCABULARY} codes, "
            f"not {coding.size}"
        )


def make_xar(
    spec: LatentSpec,
    *,
    entity: str,
    conditioning: dict,
    width: int,
    entity_options: dict | None = None,
    **arguments,
) -> XAR:
    """A next-X flow model over the continuous latents of `spec`.

    entity: key of ENTITIES; entity_options: further arguments of that function, such as a cell's side.
    conditioning: as for `make_generator`.   The other arguments are those of `XAR`.
    """
    if spec.kind != "continuous":
        raise UserError(f"xar generates continuous latents; this tokenizer gives {spec.kind}")
    if entity not in ENTITIES:
        raise UserError(f"generator.entity {entity!r} is none of {', '.join(ENTITIES)}")
    where = "generator.entity_options"
    entities = construct(ENTITIES[entity], entity_options or {}, where, grid=spec.grid)
    conditioner = _conditioner(conditioning, width, arguments)
    model = construct(
        XAR, arguments, "generator",
        entities=entities, channels=spec.size, conditioner=conditioner, width=width,
    )  # fmt: skip
    xar.check(model)
    return model


# generator.name -> what makes it from the other settings; "plan" where no name is given.
GENERATORS = {"plan": make_generator, "xar": make_xar}

__all__ = [
    "DECODING_PLANS",
    "ENTITIES",
    "GENERATORS",
    "HEADS",
    "PLANS",
    "XAR",
    "Generator",
    "Plan",
    "make_generator",
    "make_xar",
]
