"""A model asked for whole files."""
