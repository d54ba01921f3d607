"""All samplers by name, and how latents are drawn from any model."""

import dataclasses
from typing import Any, Protocol

import jax

from imgen.decoding import bit_diffusion, cached, entity_flow, masked
from imgen.decoding.sampling import Sampling
from imgen.errors import UserError
from imgen.generators.model import LatentModel
from imgen.generators.orders import random_order_parallel
from imgen.generators.plan import Plan


class Sampler(Protocol):
    """A way of drawing latents from the models that name it among their `samplers`."""

    def check(self, model: LatentModel, sampling: Sampling) -> None:
        """Raises UserError for settings that it or the model has no use for."""

    def calls(self, model: LatentModel, sampling: Sampling) -> int:
        """Returns how many network calls draw an image."""

    def draw(
        self,
        model: LatentModel,
        params: dict,
        cond: dict,
        rng: jax.Array,
        ids: jax.Array,
        sampling: Sampling,
    ) -> jax.Array:
        """Returns latents [B, *grid, ...] for training parameters; ids [B]: numbers of the images."""


class Cached:
    """A plan's own calls, with a key/value cache."""

    def plan(self, model, sampling: Sampling) -> Plan:
        """Returns the plan that decodes."""
        if sampling.steps is not None:
            raise UserError(
                f"plan {model.plan.name} fixes its {model.plan.calls} calls: steps has no meaning for it"
            )
        return model.plan

    def check(self, model, sampling: Sampling) -> None:
        model.head.check(sampling.filters)
        cached.solver_of(model, sampling)
        self.plan(model, sampling)

    def calls(self, model, sampling: Sampling) -> int:
        return self.plan(model, sampling).calls

    def draw(self, model, params, cond, rng, ids, sampling: Sampling) -> jax.Array:
        params = cached.decoding_params(params, model.dtype)
        return cached.generate(
            model, params, cond, rng, sample_ids=ids, sampling=sampling,
            plan=self.plan(model, sampling),
        )  # fmt: skip


class RandomOrder(Cached):
    """Random orders, one by one, or in `steps` parallel steps (RandAR)."""

    def plan(self, model, sampling: Sampling) -> Plan:
        if sampling.steps is None:
            return model.plan
        return random_order_parallel(model.plan.grid, model.plan.num_cond, sampling.steps)


@dataclasses.dataclass(frozen=True)
class Masked:
    """Full forward passes that decide some more positions each (`decoding.masked`)."""

    dialect: masked.Dialect

    def check(self, model, sampling: Sampling) -> None:
        model.head.check(sampling.filters)
        cached.solver_of(model, sampling)
        if self.dialect.confidence == "logit" and model.head.code_shape:
            raise UserError("this method takes the logit of a code: it needs a categorical head")
        self.calls(model, sampling)

    def calls(self, model, sampling: Sampling) -> int:
        return len(masked.steps_of(model.plan.positions, self.dialect, sampling).number)

    def draw(self, model, params, cond, rng, ids, sampling: Sampling) -> jax.Array:
        return masked.generate(
            model, params, cond, rng, sample_ids=ids, sampling=sampling, dialect=self.dialect
        )


class EntityFlow:
    """Entity after entity, each by a flow solver (xAR)."""

    def check(self, model, sampling: Sampling) -> None:
        entity_flow.check(sampling)

    def calls(self, model, sampling: Sampling) -> int:
        return entity_flow.network_calls(model, sampling)

    def draw(self, model, params, cond, rng, ids, sampling: Sampling) -> jax.Array:
        return model.to_latents(entity_flow.sample(model, params, cond, rng, ids, sampling))


class BitFlips:
    """All bits at once, by diffusion (Instella-T2I)."""

    def check(self, model, sampling: Sampling) -> None:
        bit_diffusion.check(sampling)

    def calls(self, model, sampling: Sampling) -> int:
        return bit_diffusion.steps_of(sampling)

    def draw(self, model, params, cond, rng, ids, sampling: Sampling) -> jax.Array:
        return model.to_latents(bit_diffusion.sample(model, params, cond, rng, ids, sampling))


SAMPLERS: dict[str, Sampler] = {
    "cached": Cached(),
    "random": RandomOrder(),
    "masked": Masked(masked.ELM),
    "maskgit": Masked(masked.MASKGIT),
    "titok": Masked(masked.TITOK),
    "titok_annealed": Masked(dataclasses.replace(masked.TITOK, annealed=True)),
    "maskbit": Masked(masked.MASKBIT),
    "mar": Masked(masked.MAR),
    "entity_flow": EntityFlow(),
    "bit_diffusion": BitFlips(),
}


def sampler_of(model: LatentModel, sampling: Sampling) -> Sampler:
    """Returns the sampler that settings ask for, by default the model's own. Raises UserError for one that
    does not fit the model."""
    name = sampling.method or model.samplers[0]
    if name not in model.samplers:
        raise UserError(
            f"sampling method {name!r} does not fit this model: it takes {', '.join(model.samplers)}"
        )
    return SAMPLERS[name]


def check_sampling(model: LatentModel, sampling: Sampling) -> None:
    """Raises UserError for settings that a model has no use for."""
    sampler_of(model, sampling).check(model, sampling)


def network_calls(model: LatentModel, sampling: Sampling) -> int:
    """Returns how many network calls draw an image; with guidance each is also of its null."""
    return sampler_of(model, sampling).calls(model, sampling)


def draw_latents(
    model: LatentModel,
    params: Any,
    cond: dict,
    rng: jax.Array,
    ids: jax.Array,
    sampling: Sampling = Sampling(),
) -> jax.Array:
    """Returns latents [B, *grid, ...] for training parameters.

    ids [B]: number of each image in the whole job, which with `rng` decides it. Raises UserError.
    """
    check_sampling(model, sampling)
    return sampler_of(model, sampling).draw(model, params, cond, rng, ids, sampling)
