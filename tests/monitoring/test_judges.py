"""What detectors are fed of rows."""

from __future__ import annotations

import numpy as np

from headrace.monitoring.judges import values_of
from headrace.trust.spec import DetectorSpec


def test_a_rate_is_that_of_the_detector_it_names():
    """Of several outlier detectors the flags of the one named are compared with its rate, of none named the first's."""
    columns = {
        "outlier": np.array([True, False]),
        "outlier:first": np.array([True, False]),
        "outlier:other": np.array([False, False]),
    }

    def fed(**parameters):
        spec = DetectorSpec(name="rate", method="outlier-rate", kind="drift", on="outliers", parameters=parameters)
        return values_of(spec, columns).tolist()

    assert fed(of="other") == [[0.0], [0.0]]
    assert fed(of="first") == fed() == [[1.0], [0.0]]
