"""What a generator is told: each conditioner turns its input into features [B, T, D] and a mask."""

from imgen.conditioning.conditioners import ClassLabels, LayerText, TextFeatures, TextTokens

CONDITIONERS = {
    "class": ClassLabels,
    "text": TextFeatures,
    "text_tokens": TextTokens,
    "layer_text": LayerText,
}
