"""One watched version: what is fed is what is tested, truth is joined, detectors do not harm each other, nothing is lost
over a restart. Real detectors on real data with known truth, without a process.
"""

from __future__ import annotations

import numpy as np
import pytest
from tests.monitoring.trust_folders import CANCER, HASTY, WINE, drift, outlier

from headrace.errors import InvalidRequest, LoadFailed, ModelNotReady
from headrace.features import numeric
from headrace.monitoring import facts, snapshots
from headrace.monitoring.judges import alert_of
from headrace.monitoring.stream import Stream
from headrace.monitoring.tap import packed
from headrace.payload import Tensor
from headrace.trust.folder import open_folder
from headrace.trust.spec import Alert, DetectorSpec, Window


class Fed:
    """A stream, and requests of it with ids and times that count."""

    def __init__(self, small, path, specs, *, ask=None, most_rows=20_000):
        self.small, self.path = small, path
        small.write(path, specs)
        self.ask, self.most_rows, self.asked = ask or self._ask, most_rows, 0
        self.number = 0
        self.stream = self.open()

    def open(self):
        return Stream("m", "1", open_folder(self.path), ask=self.ask, most_rows=self.most_rows)

    def _ask(self, inputs, outputs):
        self.asked += 1
        assert [each.name for each in outputs] == ["probabilities"]
        return (Tensor("probabilities", "FP64", self.small.predict(inputs[0].data)),)

    def part(self, x, rows, *, answered=True):
        ids = [str(self.number + at) for at in range(len(rows))]
        times = [1000.0 + self.number + at for at in range(len(rows))]
        self.number += len(rows)
        outputs = [Tensor("probabilities" if answered else "other", "FP64", self.small.predict(x))]
        return {
            "inputs": packed([Tensor("x", "FP64", x)]),
            "outputs": packed(outputs),
            "rows": rows,
            "ids": ids,
            "times": times,
        }

    def take(self, x, *, size=10, **more):
        """Rows as one message of requests of `size` rows."""
        rows = [min(size, len(x) - at) for at in range(0, len(x), size)]
        return self.stream.take([self.part(x, rows, **more)])


def about(outcomes, name):
    return [each.record for each in outcomes if each.record["detector"] == name and "window" in each.record]


def repeated(x, n, *, seed=0, shift=0.0):
    return x[np.random.default_rng(seed).integers(len(x), size=n)] + shift


def test_the_window_fed_is_the_window_tested(tmp_path):
    """The verdict on 60 rows that came in six requests and two messages is that of the test on these very rows."""
    fed = Fed(CANCER, tmp_path / "trust", [drift()])
    x = repeated(CANCER.fresh, 100, shift=0.3)
    assert about(fed.take(x[:35]), "input-drift") == []
    (record,) = about(fed.take(x[35:]), "input-drift")
    expected = open_folder(tmp_path / "trust").detector("input-drift").test(x[:60])
    assert record["data"]["p_val"] == expected.p_value.tolist()
    assert record["data"]["distance"] == expected.statistic.tolist()
    assert record["data"]["rows"] == 60
    assert record["members"] == {"first": "0", "last": "6", "count": 7}
    assert fed.stream.status()["detectors"][0]["collecting"] == {
        "status": "collecting", "rows": 40, "needed": 60, "least": 30, "seconds": 3600.0,
    }  # fmt: skip


def test_a_verdict_echoes_what_it_was_made_with(tmp_path):
    """Name, kind, threshold, seed, window and the folder's digest stand in each verdict."""
    fed = Fed(WINE, tmp_path / "trust", [drift(seed=5)])
    (record,) = about(fed.take(repeated(WINE.fresh, 60)), "input-drift")
    meta = record["meta"]
    assert (meta["name"], meta["detector_type"], meta["data_type"], meta["online"], meta["seed"]) == (
        "input-drift",
        "drift",
        "tabular",
        False,
        5,
    )
    assert meta["artifact_digest"] == open_folder(tmp_path / "trust").digest
    assert meta["threshold"] == record["data"]["threshold"]
    assert meta["window"] == {
        "rows": 60, "min_rows": 30, "seconds": 3600.0, "step": 0, "number": 1, "start": 1000.0, "end": 1005.0,
    }  # fmt: skip


@pytest.mark.parametrize("small", [WINE, CANCER], ids=["wine", "breast cancer"])
def test_shifted_real_data_drifts_and_the_same_does_not(small, tmp_path):
    """Half a standard deviation on each column is drift in each window of 200 rows; the data's other half is not."""
    fed = Fed(small, tmp_path / "trust", [drift(rows=len(small.fresh))])
    (same,) = about(fed.take(small.fresh), "input-drift")
    shifted = about(fed.take(np.concatenate([small.fresh + 0.5] * 3)), "input-drift")
    assert not same["data"]["is_drift"]
    assert [each["data"]["is_drift"] for each in shifted] == [True] * 3
    assert fed.stream.status()["detectors"][0]["alert"] == "cooling"


def test_two_interleavings_give_the_same_verdicts(tmp_path):
    """Requests of two replicas, merged one way or the other before the tap, give the same verdict on the same rows."""
    first, second = Fed(CANCER, tmp_path / "a", [drift(), outlier()]), Fed(CANCER, tmp_path / "b", [drift(), outlier()])
    x = repeated(CANCER.fresh, 60, shift=0.4)
    told = about(first.take(x), "input-drift")
    order = np.concatenate([np.arange(0, 60, 2), np.arange(1, 60, 2)])
    (other,) = about(second.take(x[order], size=7), "input-drift")
    assert told[0]["data"] == other["data"]


def test_parts_of_a_message_are_put_in_the_order_of_their_requests(tmp_path):
    """Requests that could not be one array are tested in the order in which they came."""
    fed = Fed(WINE, tmp_path / "trust", [drift(rows=4, window=Window(rows=4, min_rows=1))])
    x = WINE.fresh[:4]
    later, earlier = fed.part(x[[1, 3]], [1, 1]), fed.part(x[[0, 2]], [1, 1])
    outcomes = fed.stream.take([{**later, "at": [1, 3]}, {**earlier, "at": [0, 2]}])
    (outcome,) = [each for each in outcomes if each.window is not None]
    np.testing.assert_array_equal(outcome.window.columns["x"], x)


def test_odd_rows_are_told_by_their_request(tmp_path):
    """Of 60 rows the two that are far off are told with their requests' ids, kept as the worst, and flagged."""
    fed = Fed(CANCER, tmp_path / "trust", [outlier(threshold=1e4)])
    x = repeated(CANCER.reference, 60)
    x[[5, 33]] += 200.0
    outcomes = fed.take(x)
    assert [each.record["request_id"] for each in outcomes if "request_id" in each.record] == ["0", "3"]
    told = fed.stream.status()["detectors"][0]
    assert (told["rows"], told["flagged_rows"]) == (60, 2)
    assert {each["id"] for each in fed.stream.shown()["odd-rows"]["worst"]} == {"0", "3"}
    window = next(each.window for each in outcomes if each.window is not None)
    assert np.flatnonzero(window.columns["flagged"]).tolist() == [5, 33]


def test_too_many_odd_rows_in_a_window_are_drift(tmp_path):
    """A window where half the rows are odd is drift of the share of odd rows; one with none is not."""
    fed = Fed(CANCER, tmp_path / "trust", [outlier(threshold=1e4)])
    x = repeated(CANCER.reference, 120)
    x[90:] += 200.0
    records = about(fed.take(x), "odd-rows")
    assert [(each["data"]["count"], each["data"]["is_drift"]) for each in records] == [(0, False), (30, True)]


def test_the_model_is_asked_for_what_callers_did_not_ask_for(tmp_path):
    """Answers without probabilities are filled by one call of the model per window, and give the same verdict."""
    specs = [drift("output-drift", on="outputs"), drift()]
    whole, bare = Fed(CANCER, tmp_path / "a", specs), Fed(CANCER, tmp_path / "b", specs)
    x = repeated(CANCER.fresh, 60)
    (told,) = about(whole.take(x), "output-drift")
    (other,) = about(bare.take(x, answered=False), "output-drift")
    assert told["data"] == other["data"]
    assert (whole.asked, bare.asked) == (0, 1)


def test_a_model_that_cannot_be_asked_harms_no_other_detector(tmp_path):
    """When the model is away, the test on inputs goes on, and the failure is counted."""

    def away(inputs, outputs):
        raise ModelNotReady("away")

    fed = Fed(CANCER, tmp_path / "trust", [drift("output-drift", on="outputs"), drift(rows=50)], ask=away)
    outcomes = fed.take(repeated(CANCER.fresh, 60), answered=False)
    assert len(about(outcomes, "input-drift")) == 1
    assert about(outcomes, "output-drift") == []
    assert fed.stream.status()["ask_errors"] == 1


def test_a_detector_that_raises_is_counted_and_the_others_go_on(tmp_path, monkeypatch):
    """The error stands in the status of the one that raised; the other gives its verdict."""
    fed = Fed(CANCER, tmp_path / "trust", [drift("bad"), drift("good")])
    bad = fed.stream._judges[0]

    def broken(x):
        raise ZeroDivisionError("by nought")

    monkeypatch.setattr(bad._detector, "test", broken)
    outcomes = fed.take(repeated(CANCER.fresh, 60))
    assert [each.record["detector"] for each in outcomes] == ["good"]
    told = fed.stream.status()["detectors"][0]
    assert (told["errors"], told["error"]) == (1, "ZeroDivisionError: by nought")


def test_rows_that_cannot_be_read_are_counted(tmp_path):
    """A request with too few columns is told, and those after it are watched."""
    fed = Fed(CANCER, tmp_path / "trust", [drift()])
    bad = fed.part(CANCER.fresh[:3], [3]) | {"inputs": packed([Tensor("x", "FP64", np.zeros((3, 2)))])}
    fed.stream.take([bad])
    fed.take(CANCER.fresh[:5])
    told = fed.stream.status()
    assert (told["unreadable_rows"], told["rows"]) == (3, 5)
    assert "expected 30 values" in told["unreadable_error"]


@pytest.fixture
def watched(tmp_path):
    performance = DetectorSpec(
        name="truth", method="realised", kind="performance", on="predictions", window=Window(rows=60, min_rows=30)
    )
    bias = DetectorSpec(
        name="fair", method="groups", kind="bias", on="predictions", window=Window(rows=60, min_rows=30)
    )
    return Fed(CANCER, tmp_path / "trust", [performance, bias])


def test_truth_that_arrives_later_is_joined_by_request(watched):
    """Labels of six requests make a window whose accuracy is that of the model on these rows."""
    x, y = CANCER.fresh[:60], CANCER.y[len(CANCER.reference) :][:60]
    watched.take(x)
    outcomes = []
    for at in reversed(range(6)):
        labels = [CANCER.classes[each] for each in y[10 * at : 10 * at + 10]]
        known, found = watched.stream.label(str(at), labels)
        assert known
        outcomes += found
    (record,) = about(outcomes, "truth")
    assert record["data"]["metrics"]["accuracy"]["value"] == pytest.approx(
        float((CANCER.predict(x).argmax(1) == y).mean())
    )
    assert watched.stream.label("0", ["benign"] * 10) == (False, [])
    assert watched.stream.label("unheard of", ["benign"]) == (False, [])


def test_a_model_that_became_wrong_is_told(watched):
    """When the truth is the other class, accuracy is an alarm."""
    x = CANCER.fresh[:60]
    watched.take(x, size=60)
    wrong = [CANCER.classes[1 - each] for each in CANCER.predict(x).argmax(1)]
    _, outcomes = watched.stream.label("0", wrong)
    (record,) = about(outcomes, "truth")
    assert record["data"]["is_drift"]
    assert record["data"]["reason"].startswith("accuracy is 0,")


@pytest.mark.parametrize(
    ("labels", "text"),
    [(["benign"], "has 10 rows, and 1 labels came"), (["cat"] * 10, "none of the model's classes: malignant, benign")],
)
def test_labels_that_do_not_fit_are_refused_and_may_come_again(watched, labels, text):
    """A wrong number of labels or an unknown class is told, and right ones are taken after that."""
    watched.take(CANCER.fresh[:10])
    with pytest.raises(InvalidRequest, match=text):
        watched.stream.label("0", labels)
    assert watched.stream.label("0", ["benign", None] * 5)[0]
    assert watched.stream.status()["labelled_rows"] == 5


def test_bias_is_measured_by_group(watched):
    """The statistical parity difference is that of the shares of favourable answers."""
    x = CANCER.fresh[:120]
    records = about(watched.take(x), "fair")
    said = CANCER.predict(x[:60]).argmax(1) == 0
    privileged = x[:60, 0] > 0
    (group,) = records[0]["data"]["groups"]
    assert (group["rows"]["privileged"], group["attribute"]) == (int(privileged.sum()), CANCER.names[0])
    if "spd" in group["metrics"]:
        expected = said[~privileged].mean() - said[privileged].mean()
        assert group["metrics"]["spd"]["value"] == pytest.approx(expected)


def test_only_the_newest_rows_wait_for_their_truth(tmp_path):
    """With room for 40 rows, requests of 10 rows older than that are forgotten."""
    fed = Fed(CANCER, tmp_path / "trust", [drift()], most_rows=40)
    for _ in range(7):
        fed.take(CANCER.fresh[:10])
    assert [fed.stream.label(str(at), ["benign"] * 10)[0] for at in range(7)] == [False] * 3 + [True] * 4


def test_a_restart_in_the_middle_changes_no_verdict(tmp_path):
    """A stream restored from its snapshot gives the verdicts, counts and joins that one without a restart gives."""
    specs = [
        drift(window=Window(rows=60, min_rows=30, step=25)),
        outlier(threshold=200.0),
        DetectorSpec(
            name="learning",
            method="mahalanobis-online",
            kind="outlier",
            online=True,
            threshold=200.0,
            window=Window(rows=60),
        ),
    ]
    x = repeated(CANCER.fresh, 240, shift=0.2)
    straight, broken = Fed(CANCER, tmp_path / "a", specs), Fed(CANCER, tmp_path / "b", specs)
    digest = broken.stream.folder.digest
    path = snapshots.path_of(tmp_path / "state", "m/1", "")
    told, again = [], []
    for start in range(0, 240, 40):
        told += straight.take(x[start : start + 40])
        again += broken.take(x[start : start + 40])
        snapshots.write(path, broken.stream.state(), digest=digest)
        broken.stream = broken.open()
        broken.stream.restore(snapshots.read(path, digest=digest))
    assert [each.record["data"] for each in told] == [each.record["data"] for each in again]
    assert [each.record.get("window") for each in told] == [each.record.get("window") for each in again]
    mine, other = straight.stream.status(), broken.stream.status()
    for one, two in zip(mine["detectors"], other["detectors"], strict=True):
        for name in ("rows", "windows", "drift_windows", "alert", "collecting"):
            assert one[name] == two[name]
    assert other["awaiting_labels"] == mine["awaiting_labels"] == 24
    assert broken.stream.label("3", ["benign"] * 10)[0]


def test_a_snapshot_of_another_folder_is_refused(tmp_path):
    """State that belongs to another reference is named as such and not read."""
    fed = Fed(CANCER, tmp_path / "trust", [drift()])
    path = snapshots.path_of(tmp_path, "m", "1")
    assert snapshots.read(path, digest="a") is None
    snapshots.write(path, fed.stream.state(), digest="a")
    with pytest.raises(LoadFailed, match="digest a; the model's is b now"):
        snapshots.read(path, digest="b")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(LoadFailed, match="cannot be read"):
        snapshots.read(path, digest="a")


@pytest.mark.parametrize("name", ["../../etc", ".", "..", "a/b", "ä b"])
def test_a_state_stays_in_its_folder(tmp_path, name):
    """No name of a model or version leads out of the folder of states."""
    path = snapshots.path_of(tmp_path, name, name)
    assert path.resolve().is_relative_to(tmp_path)
    assert path.parent.parent == tmp_path


def test_one_alarm_of_a_calibrated_online_detector_is_an_alert():
    """Where the folder does not say otherwise: its expected run time is its patience already."""
    spec = DetectorSpec(name="a", method="adwin", kind="drift", online=True)
    assert alert_of(spec) == Alert(windows=1, at_least=1)
    assert alert_of(drift()) == Alert()
    assert alert_of(drift(alert=HASTY, online=True)) == HASTY


def test_a_method_that_measures_nothing_is_named(tmp_path):
    """An unknown kind of fact fails alone, and the others are watched."""
    folder = CANCER.write(tmp_path / "trust", [drift()])
    with pytest.raises(Exception, match="there are cbpe, realised, groups"):
        facts.measure_of(folder, DetectorSpec(name="a", method="guess", kind="performance"))


def test_performance_is_estimated_without_labels(tmp_path):
    """Estimated accuracy on rows like the reference is near what it is, with its band; on noise it is an alarm."""
    from headrace.detectors.performance import Cbpe
    from headrace.trust import folder as folders

    spec = DetectorSpec(name="guess", method="cbpe", kind="performance", on="outputs", window=Window(rows=100))
    plain = CANCER.write(tmp_path / "plain", [])
    state = Cbpe.fit(CANCER.predict(CANCER.fresh), CANCER.y[len(CANCER.reference) :].astype(float)).state()
    folders.write_folder(
        tmp_path / "trust",
        card=plain.card,
        schema=plain.schema,
        detectors=[(spec, state)],
        explainers=plain.explainers,
        reference=plain.reference(),
        held_out=plain.held_out(),
    )
    stream = Stream("m", "1", open_folder(tmp_path / "trust"), ask=lambda *_: (), most_rows=1000)

    def window(answers):
        part = {
            "inputs": packed([Tensor("x", "FP64", CANCER.fresh[:100])]),
            "outputs": packed([Tensor("probabilities", "FP64", answers)]),
            "rows": [100],
            "ids": ["a"],
            "times": [1.0],
        }
        ((record),) = about(stream.take([part]), "guess")
        return record["data"]

    usual = window(CANCER.predict(CANCER.fresh[:100]))
    assert not usual["is_drift"]
    accuracy = usual["metrics"]["accuracy"]
    assert accuracy["low"] <= 0.97 <= accuracy["high"] + 0.05
    assert window(np.full((100, 2), 0.5) + np.array([0.02, -0.02]))["is_drift"]
    assert numeric(1).names == ("x0",)
