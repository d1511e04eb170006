"""What other servers say of detectors, as models of ours that answer with a detector's verdicts. Shared by the
dialects; pure.

Theirs is a server of its own that loads a saved object, pickled code, which is never read here. Ours is one of the
detectors of a trust folder; the model beside which that folder lies is watched by all of them without any manifest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from headrace.compat import alibi
from headrace.control.manifests import pods
from headrace.control.manifests.base import Reader
from headrace.control.resources import Model

RUNTIME: Final = "detector"
TRUST: Final = "headrace.io/trust"
"""The annotation that names a trust folder, in place of what alibi-detect saved."""
DETECTOR: Final = "headrace.io/detector"
"""The annotation that names one of the folder's detectors; absent: its first of the kind."""


def model(
    reader: Reader, uri: str, path: str, *, annotations: Mapping[str, str], kind: str = "", named: str = ""
) -> Model:
    """A model that answers with a detector's verdicts.

    Args:
        reader: Takes faults and notes.
        uri: Where they have what was saved.
        path: The field that says so.
        annotations: The document's.
        kind: `outlier` or `drift`; empty: the folder has one detector.
        named: One of the folder's detectors; empty: the annotation's, else the first of the kind.
    """
    folder = annotations.get(TRUST, "")
    if folder and uri:
        reader.note(path, f"without effect: the annotation {TRUST} names the trust folder", uri)
    elif uri and pods.may_be_trusted(uri):
        folder = uri
    if not folder:
        reader.fault(
            path,
            f"what alibi-detect saved, {uri!r}, is pickled code, which is not read{_ours(uri)}. Write the trust folder "
            f"of the model that is watched, which then is watched by itself: headrace trust fit MODEL --data "
            f"TRAINING_DATA; and name it: metadata.annotations: {{{TRUST}: FOLDER}}, or leave this out",
        )
    parameters: dict[str, Any] = {"kind": kind, "detector": named or annotations.get(DETECTOR, "")}
    return Model(runtime=RUNTIME, uri=folder, parameters={name: value for name, value in parameters.items() if value})


def _ours(uri: str) -> str:
    """Our method for the class of theirs that a place is called by, as in `.../od/OutlierVAE/cifar10`."""
    found = [(each, method) for each in re.split(r"[/_.-]", uri) if (method := alibi.detector(each))]
    return "".join(f"; our method for {each} is '{method}'" for each, method in found[:1])
