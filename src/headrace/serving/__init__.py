"""Serving: a loaded model as an `Infer`: decode, batch, predict, encode; where it runs; which models there are.

May import: runtimes, codecs, payload, errors. Never: a wire, a metric.
"""
