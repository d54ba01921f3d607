"""What a tokenizer hands to a generator."""

from imgen.latents.spec import LatentSpec, height_width

__all__ = ["LatentSpec", "height_width"]
