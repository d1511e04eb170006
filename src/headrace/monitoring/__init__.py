"""Monitoring: what is measured and logged about each exchange. Wraps `Infer`; never on the way of a reply.

Models with a trust folder are watched in a process of their own (`watch` starts `watcher`), so that no request waits
for statistics.

May import: payload, errors, child, brokers, protocols, detectors, features, trust; scipy, scikit-learn and matplotlib
in that process alone.
"""
