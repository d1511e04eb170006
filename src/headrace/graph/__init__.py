"""Chains of models: what a pipeline is (`spec`), whether it can be (`check`), how a request flows through it (`run`)."""
