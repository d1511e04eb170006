"""Packages that a model asks for beside itself, made into an environment once. `app.py` calls it before a load."""
