"""Where each leaf of a tokenizer's train state lives. A leaf that no rule names is an error."""

from imgen.parallel.mesh import Rules
from imgen.tokenizers.tokenizer import Tokenizer

VECTORS = ((r"(bias|scale|shift)$", ()),)  # of every layer: a copy on every device
# Beside the tokenizer, on every device: discriminators and LPIPS are convolutions, the others running means.
STATE = ((r"^(disc|lpips)/", ()), (r"^(usage|disc_stats)/", ()))


def sharding_rules(tokenizer: Tokenizer) -> Rules:
    """Lists (pattern, axes) for the train state of a tokenizer: its modules' own tables, then the rest."""
    own = (*tokenizer.sharding_rules(), *VECTORS)
    return [(f"^params/(.*/)?(?:{pattern})", axes) for pattern, axes in own] + list(STATE)
