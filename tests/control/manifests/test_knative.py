"""Services of Knative that run alibi-detect's server, and what stands between them and models."""

from pathlib import Path

import pytest
import yaml

from headrace.control import manifests
from headrace.control.resources import Model
from headrace.errors import InvalidResources

SAMPLES = Path(__file__).parent / "samples" / "knative_detectors.yaml"
OUTLIER, DRIFT = yaml.safe_load_all(SAMPLES.read_text())


def convert(document):
    (found,) = manifests.convert(document, where="x.yaml:1", base="/work")
    return found


def service(*args, image="seldonio/alibi-detect-server:1.17.1", annotations=None):
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": "detector", "annotations": annotations or {}},
        "spec": {"template": {"spec": {"containers": [{"image": image, "args": list(args)}]}}},
    }


def test_outlier_detector():
    """A detector becomes a model that answers with the verdicts of the folder that an annotation names; what
    alibi-detect saved is not read.
    """
    found = convert(OUTLIER)
    assert found.key == ("Model", "vae-outlier")
    assert found.spec == Model(runtime="detector", uri="models/cifar10/trust", parameters={"kind": "outlier"})
    place = "spec.template.spec.containers[0].args"
    assert any(note.startswith(f"{place}: gs://seldon-models/") for note in found.notes)
    assert any(note.startswith(f"{place}: without effect: --reply_url: set `trust.events`") for note in found.notes)


def test_drift_detector():
    """A place of this machine is taken for a trust folder, and an annotation may name one of its detectors."""
    assert convert(DRIFT).spec == Model(
        runtime="detector", uri="models/cifar10/trust", parameters={"kind": "drift", "detector": "ks:outputs"}
    )


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (
            service("--storage_uri", "gs://seldon-models/alibi-detect/cd/KSDrift/cifar10", "DriftDetector"),
            r"containers\[0\].args: what alibi-detect saved.*our method for KSDrift is 'ks'.*headrace trust fit",
        ),
        (
            service("--storage_uri", "models/m/trust", "AdversarialDetector"),
            r"the class AdversarialDetector: ours \(autoencoder-output",
        ),
        (service("--storage_uri", "models/m/trust", "MetricsServer"), r"class MetricsServer: .*feedback"),
        (service("--storage_uri", "models/m/trust"), "class none: expected OutlierDetector, DriftDetector"),
        (service("OutlierDetector", image="me/other:1"), "expected one container of the image alibi-detect-server"),
        (
            {"apiVersion": "eventing.knative.dev/v1", "kind": "Trigger", "metadata": {"name": "t"}, "spec": {}},
            "Trigger is refused: a model with a trust folder is watched by itself",
        ),
    ],
    ids=["what alibi-detect saved", "adversarial", "metrics", "no class", "another image", "a trigger"],
)
def test_detector_that_is_none(document, expected):
    """What cannot be a detector here is a fault that names the field, what was asked for, and what to do."""
    with pytest.raises(InvalidResources, match=expected):
        convert(document)
