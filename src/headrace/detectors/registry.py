"""Which detectors there are: one line each. The module of a method is imported when it is first asked for."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from headrace.detectors.base import Detector
from headrace.errors import InvalidRequest

METHODS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "isolation-forest": "headrace.detectors.isolation_forest:IsolationForest",
        "mahalanobis": "headrace.detectors.mahalanobis:Mahalanobis",
        "mahalanobis-online": "headrace.detectors.mahalanobis_online:MahalanobisOnline",
        "pca": "headrace.detectors.pca:Pca",
        "vae": "headrace.detectors.vae:Vae",
        "knn": "headrace.detectors.knn:Knn",
        "ecod": "headrace.detectors.ecod:Ecod",
        "copod": "headrace.detectors.copod:Copod",
        "spectral-residual": "headrace.detectors.spectral_residual:SpectralResidual",
        "seasonal": "headrace.detectors.seasonal:Seasonal",
        "pyod": "headrace.detectors.pyod:Pyod",
        "feature-squeezing": "headrace.detectors.feature_squeezing:FeatureSqueezing",
        "autoencoder-output": "headrace.detectors.autoencoder_output:AutoencoderOutput",
        "adversarial-union": "headrace.detectors.adversarial_union:AdversarialUnion",
        "ks": "headrace.detectors.ks:Ks",
        "cvm": "headrace.detectors.cvm:Cvm",
        "chi-square": "headrace.detectors.chi_square:ChiSquare",
        "fisher": "headrace.detectors.fisher:Fisher",
        "psi": "headrace.detectors.psi:Psi",
        "jensen-shannon": "headrace.detectors.jensen_shannon:JensenShannon",
        "wasserstein": "headrace.detectors.wasserstein:Wasserstein",
        "tabular": "headrace.detectors.tabular:Tabular",
        "mmd": "headrace.detectors.mmd:Mmd",
        "lsdd": "headrace.detectors.lsdd:Lsdd",
        "classifier": "headrace.detectors.classifier:Classifier",
        "outlier-rate": "headrace.detectors.outlier_rate:OutlierRate",
        "adwin": "headrace.detectors.adwin:Adwin",
        "page-hinkley": "headrace.detectors.page_hinkley:PageHinkley",
        "hddm-a": "headrace.detectors.hddm:HddmA",
        "hddm-w": "headrace.detectors.hddm:HddmW",
        "mmd-online": "headrace.detectors.mmd_online:MmdOnline",
        "lsdd-online": "headrace.detectors.lsdd_online:LsddOnline",
        "cvm-online": "headrace.detectors.cvm_online:CvmOnline",
        "river": "headrace.detectors.river:River",
    }
)
"""Method to `module:Class`."""


def find(method: str) -> type[Detector]:
    """The class of a method.

    Raises:
        InvalidRequest: there is none; names the nearest.
    """
    if method not in METHODS:
        near = difflib.get_close_matches(method, METHODS, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else f"; there are {', '.join(METHODS)}"
        raise InvalidRequest(f"detector method '{method}' is not known{hint}")
    module, _, name = METHODS[method].partition(":")
    found: type[Detector] = getattr(importlib.import_module(module), name)
    return found
