"""Which explainers there are: one line each. The module of a method is imported when it is first asked for."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from headrace.errors import InvalidRequest
from headrace.explainers.base import Explainer

METHODS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "anchor-tabular": "headrace.explainers.anchor_tabular:AnchorTabular",
        "anchor-text": "headrace.explainers.anchor_text:AnchorText",
        "anchor-image": "headrace.explainers.anchor_image:AnchorImage",
        "counterfactual": "headrace.explainers.counterfactual:Counterfactual",
        "contrastive": "headrace.explainers.contrastive:Contrastive",
        "kernel-shap": "headrace.explainers.kernel_shap:KernelShap",
        "permutation-shap": "headrace.explainers.permutation_shap:PermutationShap",
        "exact-shap": "headrace.explainers.exact_shap:ExactShap",
        "linear-shap": "headrace.explainers.linear_shap:LinearShap",
        "tree-shap": "headrace.explainers.tree_shap:TreeShap",
        "lime": "headrace.explainers.lime:Lime",
        "integrated-gradients": "headrace.explainers.integrated_gradients:IntegratedGradients",
        "ale": "headrace.explainers.ale:Ale",
        "partial-dependence": "headrace.explainers.partial_dependence:PartialDependence",
        "permutation-importance": "headrace.explainers.permutation_importance:PermutationImportance",
        "trust-score": "headrace.explainers.trust_score:TrustScore",
    }
)
"""Method to `module:Class`."""


def find(method: str) -> type[Explainer]:
    """The class of a method.

    Raises:
        InvalidRequest: there is none; names the nearest.
    """
    if method not in METHODS:
        near = difflib.get_close_matches(method, METHODS, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else f"; there are {', '.join(METHODS)}"
        raise InvalidRequest(f"explainer method '{method}' is not known{hint}")
    module, _, name = METHODS[method].partition(":")
    found: type[Explainer] = getattr(importlib.import_module(module), name)
    return found
