"""What a generator is told: each conditioner turns its inputs into a `Condition`."""

from imgen.conditioning.conditioners import ClassLabels, LayerText, TextFeatures, TextTokens
from imgen.conditioning.conditions import (
    Condition,
    Conditions,
    Labels,
    conditions_for,
    sample_labels,
)
from imgen.conditioning.unconditional import Unconditional

CONDITIONERS = {
    "class": ClassLabels,
    "none": Unconditional,
    "text": TextFeatures,
    "text_tokens": TextTokens,
    "layer_text": LayerText,
}

__all__ = [
    "CONDITIONERS",
    "ClassLabels",
    "Condition",
    "Conditions",
    "Labels",
    "LayerText",
    "TextFeatures",
    "TextTokens",
    "Unconditional",
    "conditions_for",
    "sample_labels",
]
