"""Models: GPT-2 of our own, where others come from, 4-bit weights, adapters, chat templates, generation."""

IGNORE_INDEX = -100  # the label that PyTorch's cross-entropy skips: the one place for it
