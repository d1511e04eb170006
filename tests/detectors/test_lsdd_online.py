"""Online LSDD: what is asked of every online test of drift."""

from __future__ import annotations

from typing import ClassVar

from headrace.detectors.lsdd_online import LsddOnline
from headrace.testing.drift_online import DriftOnlineConformance


class TestLsddOnline(DriftOnlineConformance):
    detector = LsddOnline
    parameters: ClassVar = {"window": 10}
    ert = 60.0
