"""Quantizers: features <-> latents, behind one face (`base.Quantizer`)."""

from collections.abc import Mapping
from typing import Any

from imgen.config.construct import construct
from imgen.errors import UserError
from imgen.tokenizers.quantizers.base import Quantizer
from imgen.tokenizers.quantizers.bernoulli import Bernoulli
from imgen.tokenizers.quantizers.fsq import FSQ
from imgen.tokenizers.quantizers.gaussian import Gaussian
from imgen.tokenizers.quantizers.ibq import IBQ
from imgen.tokenizers.quantizers.lookup_free import BSQ, LFQ
from imgen.tokenizers.quantizers.residual import ResidualQuantizer
from imgen.tokenizers.quantizers.vector import VectorQuantizer

QUANTIZERS = {
    "vq": VectorQuantizer,
    "fsq": FSQ,
    "lfq": LFQ,
    "bsq": BSQ,
    "ibq": IBQ,
    "rq": ResidualQuantizer,
    "bernoulli": Bernoulli,
    "gaussian": Gaussian,
}


def make_quantizer(given: Quantizer | Mapping[str, Any]) -> Quantizer:
    """Makes the quantizer of the name in `QUANTIZERS` and the arguments that a config gives, such as
    {"name": "fsq", "levels": (8, 5, 5, 5)}; a made one stays as it is. Raises UserError for anything else."""
    if isinstance(given, Quantizer):
        return given
    if not isinstance(given, Mapping):
        raise UserError(
            f"tokenizer.quantizer {given!r}: give its name with its arguments, e.g. "
            "dict(name='fsq', levels=(8, 5, 5, 5))"
        )
    arguments = dict(given)
    name = arguments.pop("name", None)
    if name not in QUANTIZERS:
        raise UserError(f"tokenizer.quantizer.name {name!r} is none of {', '.join(QUANTIZERS)}")
    return construct(QUANTIZERS[name], arguments, "tokenizer.quantizer")
