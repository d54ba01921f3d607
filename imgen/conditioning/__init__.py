"""What a generator is told: each conditioner turns its inputs into a `Condition`."""

from imgen.conditioning.conditioners import ClassLabels, LayerText, TextFeatures, TextTokens
from imgen.conditioning.conditions import (
    Condition,
    Conditions,
    Labels,
    conditions_for,
    sample_labels,
)

CONDITIONERS = {
    "class": ClassLabels,
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
    "conditions_for",
    "sample_labels",
]
