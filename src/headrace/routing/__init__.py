"""What stands between the routing table and a model: each wraps an `Infer` and is one. `app.py` and `local` compose
them: caches, splits by weight, mirrors, sticky routes, MLServer's answers.
"""
