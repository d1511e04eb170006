"""What alibi and alibi-detect call their methods and options, and what ours are called. Read where somebody else's
settings name one of theirs: the dialect of MLServer, manifests of Seldon and KServe. Words alone: nothing of theirs is
imported, and what they saved, pickled code, is never read.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

EXPLAINERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "anchortabular": "anchor-tabular",
        "anchortext": "anchor-text",
        "anchorimage": "anchor-image",
        "anchorimages": "anchor-image",
        "kernelshap": "kernel-shap",
        "treeshap": "tree-shap",
        "integratedgradients": "integrated-gradients",
        "treepartialdependence": "partial-dependence",
        "partialdependence": "partial-dependence",
        "treepartialdependencevariance": "partial-dependence",
        "partialdependencevariance": "partial-dependence",
        "permutationimportance": "permutation-importance",
        "ale": "ale",
        "cem": "contrastive",
        "contrastive": "contrastive",
        "counterfactual": "counterfactual",
        "counterfactuals": "counterfactual",
        "counterfactualproto": "counterfactual",
        "cfproto": "counterfactual",
        "trustscore": "trust-score",
        "lime": "lime",
        "limetabular": "lime",
        "limetexts": "lime",
        "limeimages": "lime",
    }
)
"""A name of theirs, in small letters and digits alone, to our method."""

_ANCHORS: Final[Mapping[str, str]] = {
    "threshold": "threshold",
    "delta": "delta",
    "tau": "tau",
    "batch_size": "batch",
    "beam_size": "beam_size",
    "max_anchor_size": "max_anchor_size",
}
OPTIONS: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        "anchor-tabular": _ANCHORS,
        "anchor-text": {**_ANCHORS, "coverage_samples": "coverage_samples", "sample_proba": "change"},
        "anchor-image": {**_ANCHORS, "coverage_samples": "coverage_samples", "p_sample": "change"},
        "kernel-shap": {"nsamples": "samples"},
        "integrated-gradients": {"n_steps": "steps", "target": "target"},
        "lime": {"num_samples": "samples", "num_features": "parts"},
        "counterfactual": {"target_proba": "probability"},
        "contrastive": {"kappa": "kappa", "beta": "beta", "max_iterations": "iterations"},
    }
)
"""By our method: an option of theirs to the option of `explain` that means the same. All of them are numbers."""

DETECTORS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ksdrift": "ks",
        "cvmdrift": "cvm",
        "chisquaredrift": "chi-square",
        "fetdrift": "fisher",
        "tabulardrift": "tabular",
        "mmddrift": "mmd",
        "lsdddrift": "lsdd",
        "classifierdrift": "classifier",
        "mmddriftonline": "mmd-online",
        "lsdddriftonline": "lsdd-online",
        "cvmdriftonline": "cvm-online",
        "iforest": "isolation-forest",
        "mahalanobis": "mahalanobis-online",
        "outliervae": "vae",
        "spectralresidual": "spectral-residual",
        "knn": "knn",
        "pca": "pca",
        "adversarialae": "autoencoder-output",
    }
)
"""As `EXPLAINERS`, of alibi-detect's classes."""

SAVED: Final = ("meta.dill", "explainer.dill", "config.toml")
"""Files by which a folder of theirs is known."""


def explainer(name: str) -> str:
    """Our method for an explainer of theirs; empty: there is none."""
    return EXPLAINERS.get(_bare(name), "")


def detector(name: str) -> str:
    """Our method for a detector of theirs, by its class or the dotted path of it; empty: there is none."""
    return DETECTORS.get(_bare(name.rpartition(".")[2]), "")


def options(method: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Options of ours for options of theirs, whose values may be texts, as in manifests; and the names of those that
    nothing of ours stands for.

    Raises:
        ValueError: one that we have is no number; names it.
    """
    known = OPTIONS.get(method, {})
    found: dict[str, Any] = {}
    for name in given.keys() & known.keys():
        value = given[name]
        try:
            number = json.loads(value) if isinstance(value, str) else value
        except ValueError:
            number = None
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise ValueError(f"{name}: expected a number, came {value!r}")
        found[known[name]] = number
    return dict(sorted(found.items())), sorted(given.keys() - known.keys())


def unknown(name: str, known: Mapping[str, str]) -> str:
    """What to say of a name that nobody knows: the nearest of ours, or all of them."""
    near = difflib.get_close_matches(_bare(name), known, n=1)
    if near:
        return f"the nearest of ours is '{known[near[0]]}'"
    return f"ours are {', '.join(sorted(set(known.values())))}"


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
