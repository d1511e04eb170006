"""The reference that travels with a model: what `headrace trust fit` writes and `headrace serve` finds beside it."""
