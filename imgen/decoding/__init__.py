"""Drawing samples."""

from imgen.decoding.cached import decoding_params, generate
from imgen.decoding.guidance import Guidance
from imgen.decoding.samplers import SAMPLERS, check_sampling, draw_latents, network_calls
from imgen.decoding.sampling import Sampling, sampling_from
from imgen.generators.filters import Filters

__all__ = [
    "SAMPLERS",
    "Filters",
    "Guidance",
    "Sampling",
    "check_sampling",
    "decoding_params",
    "draw_latents",
    "generate",
    "network_calls",
    "sampling_from",
]
