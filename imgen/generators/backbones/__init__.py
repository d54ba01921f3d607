"""Networks that may stand in the transformer's place: (x [B, S, D], known [B, S] bool) -> [B, S, D].

S slots, the condition's first, then the positions; each network has positions of its own.
"""

from imgen.generators.backbones.bert import Bert
from imgen.generators.backbones.mar import EncoderDecoder
from imgen.generators.backbones.uvit import UViT

BACKBONES = {"bert": Bert, "uvit": UViT, "mar": EncoderDecoder}

__all__ = ["BACKBONES", "Bert", "EncoderDecoder", "UViT"]
