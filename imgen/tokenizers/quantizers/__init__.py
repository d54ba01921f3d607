"""Quantizers: features <-> latents, behind one face (`base.Quantizer`)."""

from imgen.tokenizers.quantizers.bernoulli import Bernoulli
from imgen.tokenizers.quantizers.fsq import FSQ
from imgen.tokenizers.quantizers.gaussian import Gaussian
from imgen.tokenizers.quantizers.vector import VectorQuantizer

QUANTIZERS = {"vq": VectorQuantizer, "fsq": FSQ, "bernoulli": Bernoulli, "gaussian": Gaussian}
