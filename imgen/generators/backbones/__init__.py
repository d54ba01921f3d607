"""Networks that may stand in the transformer's place: (x [B, S, D], known [B, S] bool) -> [B, S, D].

S slots, the condition's first, then the positions; each network has positions of its own. One that `masks`
has a mask vector of its own as well, and looks at the known slots of x only; others find it in x.
"""

from imgen.generators.backbones.bert import Bert
from imgen.generators.backbones.mar import EncoderDecoder
from imgen.generators.backbones.uvit import UViT

SHARDING_RULES = [  # of what other rules of a generator don't cover
    (r"^params/transformer/.*(skip|transform|decoder_embed)/kernel$", ("fsdp", None)),
    (r"^params/transformer/token_types$", ()),
]
BACKBONES = {"bert": Bert, "uvit": UViT, "mar": EncoderDecoder}

__all__ = ["BACKBONES", "SHARDING_RULES", "Bert", "EncoderDecoder", "UViT"]
