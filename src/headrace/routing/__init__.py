"""What stands between the routing table and a model: each wraps an `Infer` and is one. `app.py` composes them."""
