"""Security: what may be loaded, who may ask how much, what is let in and told, and what is written down of it.

`load_policy` refuses files; the others wrap an `Infer`: callers and their quotas, validation, guards, the output
policy, the monitor of extraction, the audit log. `trusted.py` puts them around a model.

May import: trust, detectors, features, payload, errors.
"""
