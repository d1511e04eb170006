"""Serving: a loaded model as an `Infer`: decode, batch, predict, encode; where it runs; which models there are.

Explanations too, in a process of their own (`explain` starts `explain_process`).

May import: runtimes, codecs, trust, explainers, compat, child, payload, errors; of protocols the nouns of
`explain` and V2 JSON. Never: a socket of callers, a metric.
"""
