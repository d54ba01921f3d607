"""Quantizers: features <-> latents, behind one face (`base.Quantizer`)."""

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
