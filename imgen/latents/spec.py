"""LatentSpec: what a tokenizer hands to a generator."""

import dataclasses
import math

from imgen.errors import UserError

KINDS = ("index", "bits", "continuous")


def height_width(size: int | tuple[int, int]) -> tuple[int, int]:
    """Returns (H, W) of images of `size`, one number for square ones."""
    return (size, size) if isinstance(size, int) else tuple(size)


@dataclasses.dataclass(frozen=True)
class LatentSpec:
    """Describes kind and shape of one image's latents. Raises UserError for an unknown kind.

    kind: "index" (int32 codes), "bits" (0/1) or "continuous" (float32).
    grid: layout of the positions, e.g. (16, 16), (128,) or (4, 16, 16).
    size: vocabulary (index), bits (bits) or channels (continuous) per position.
    """

    kind: str
    grid: tuple[int, ...]
    size: int

    def __post_init__(self):
        if self.kind not in KINDS:
            raise UserError(f"latent kind {self.kind!r} is none of {', '.join(KINDS)}")
        object.__setattr__(self, "grid", tuple(int(n) for n in self.grid))

    @property
    def positions(self) -> int:
        """Counts the positions of an image: the product of the grid."""
        return math.prod(self.grid)

    @property
    def bits(self) -> float | None:
        """Counts the bits that an image's latents take at a fixed length; None for continuous ones."""
        if self.kind == "continuous":
            return None
        return self.positions * (self.size if self.kind == "bits" else math.log2(self.size))
