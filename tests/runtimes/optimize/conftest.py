"""Small real models and the data they were trained on, made once."""

import numpy as np
import pytest


class Data:
    """600 rows of 6 columns, with what can be learned from them."""

    def __init__(self):
        rng = np.random.default_rng(7)
        self.rows = rng.normal(size=(600, 6))
        self.holes = self.rows.copy()
        self.holes[rng.random(self.rows.shape) < 0.1] = np.nan
        self.codes = self.rows.copy()
        self.codes[:, 0] = rng.integers(0, 9, 600) * 3
        score = self.rows[:, 0] + 2 * self.rows[:, 1] * self.rows[:, 2] + 0.3 * rng.normal(size=600)
        self.target = score
        self.counts = np.abs(score)
        self.two = (score > 0).astype(np.int64)
        self.three = np.digitize(score, [-1.0, 1.0])
        self.names = np.array(["low", "middle", "high"])[self.three]


@pytest.fixture(scope="session")
def data():
    return Data()
