"""Drawing latents from any model of them."""

import jax

from imgen.decoding import bit_diffusion, flow_entities
from imgen.decoding.filters import Filters, check_temperature_only
from imgen.decoding.generate import decoding_params, generate
from imgen.decoding.guidance import Guidance
from imgen.errors import UserError
from imgen.generators.bit_diffusion import BitDiffusion
from imgen.generators.generator import Generator
from imgen.generators.xar import XAR


def draw_latents(
    model: Generator | BitDiffusion | XAR,
    params: dict,
    cond: dict,
    rng: jax.Array,
    sample_ids: jax.Array,
    *,
    guidance: Guidance = Guidance(),
    filters: Filters = Filters(),
) -> jax.Array:
    """Latents [B, *grid, ...] for training parameters; what `model` is decides how they are drawn.

    sample_ids [B]: number of each image in the whole job.
    """
    check_drawing(model, guidance, filters)
    if isinstance(model, XAR):
        tokens = flow_entities.sample(model, params, cond, rng, sample_ids, guidance)
        return model.to_latents(tokens)
    if not isinstance(model, BitDiffusion):
        params = decoding_params(params, model.dtype)
        return generate(
            model, params, cond, rng, sample_ids=sample_ids, guidance=guidance, filters=filters
        )
    codes = bit_diffusion.sample(
        model,
        params,
        cond,
        rng,
        sample_ids,
        scale=guidance.scale,
        temperature=filters.temperature,
    )
    return model.to_latents(codes)


def check_drawing(
    model: Generator | BitDiffusion | XAR, guidance: Guidance, filters: Filters
) -> None:
    """Raises UserError for settings that a model has no use for."""
    if isinstance(model, XAR):
        if filters != Filters(choice_temperature=filters.choice_temperature):
            raise UserError(
                "flows draw no codes: temperature, top_k and top_p have no meaning for xar"
            )
        if guidance.interval >= 0:
            raise UserError(
                "xar is guided by times: set generator.guidance_interval, not guidance.interval"
            )
        return
    is_diffusion = isinstance(model, BitDiffusion)
    if is_diffusion and (guidance.schedule != "constant" or guidance.interval >= 0):
        raise UserError("bit diffusion is guided at every step alike: guidance has a scale only")
    if is_diffusion or model.coding.binary:
        check_temperature_only(filters, "bits")
    elif model.coding.continuous:
        check_temperature_only(filters, "continuous latents")
