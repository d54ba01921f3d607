"""Drawing samples."""

from imgen.decoding.draw import check_drawing, draw_latents
from imgen.decoding.filters import Filters
from imgen.decoding.generate import decoding_params, generate
from imgen.decoding.guidance import Guidance

__all__ = ["Filters", "Guidance", "check_drawing", "decoding_params", "draw_latents", "generate"]
