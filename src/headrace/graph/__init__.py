"""Chains of models: what a pipeline is (`spec`), whether it can be (`check`), what a request does in it (`run`)."""
