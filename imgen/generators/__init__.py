"""Models over latents."""

import jax.numpy as jnp

from imgen.conditioning import CONDITIONERS
from imgen.errors import UserError
from imgen.generators.generator import Generator
from imgen.generators.orders import next_neighbour, parallel_groups, raster
from imgen.generators.plan import Plan
from imgen.latents import LatentSpec

PLANS = {"raster": raster, "nar": next_neighbour, "par": parallel_groups}


def make_generator(
    spec: LatentSpec, *, plan: str, plan_options: dict, conditioning: dict, width: int, **arguments
) -> Generator:
    """A Generator over the latents of `spec`.

    plan: key of PLANS; plan_options: further arguments of that function.
    conditioning: {"name": key of CONDITIONERS, ...the conditioner's own arguments}.
    width and the other arguments are those of `Generator`.
    """
    if spec.kind != "index":
        raise UserError(
            f"a categorical generator needs index latents; this tokenizer gives {spec.kind}"
        )
    if plan not in PLANS:
        raise UserError(f"generator.plan {plan!r} is none of {', '.join(PLANS)}")
    conditioning = dict(conditioning)
    name = conditioning.pop("name")
    if name not in CONDITIONERS:
        raise UserError(
            f"generator.conditioning.name {name!r} is none of {', '.join(CONDITIONERS)}"
        )
    conditioner = CONDITIONERS[name](
        width=width, dtype=arguments.get("dtype", jnp.float32), **conditioning
    )
    return Generator(
        plan=PLANS[plan](spec.grid, conditioner.num_slots, **plan_options),
        vocab=spec.size,
        conditioner=conditioner,
        width=width,
        **arguments,
    )


__all__ = ["PLANS", "Generator", "Plan", "make_generator"]
