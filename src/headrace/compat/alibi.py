"""What alibi and alibi-detect call their methods, and what ours are called. Read where somebody else's settings name
one of theirs: the dialect of MLServer, manifests of Seldon and KServe. Words alone: nothing of theirs is imported, and
what they saved, pickled code, is never read.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

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
    }
)
"""A name of theirs, in small letters and digits alone, to our method."""

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


def unknown(name: str, known: Mapping[str, str]) -> str:
    """What to say of a name that nobody knows: the nearest of ours, or all of them."""
    near = difflib.get_close_matches(_bare(name), known, n=1)
    if near:
        return f"the nearest of ours is '{known[near[0]]}'"
    return f"ours are {', '.join(sorted(set(known.values())))}"


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
