"""The exact Shapley values keep what every explainer keeps; their numbers are tested in test_shapley."""

from __future__ import annotations

from headrace.testing.explainers import ExplainerConformance


class TestExactShap(ExplainerConformance):
    method = "exact-shap"
