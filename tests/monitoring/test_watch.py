"""Watching with the real child process: verdicts arrive, the child may die, nobody waits for it."""

from __future__ import annotations

import asyncio
import os
import signal
from functools import partial

import msgspec
import numpy as np
import pytest
from tests.monitoring.trust_folders import CANCER, WINE, drift, outlier

from headrace.errors import InvalidRequest, ModelNotReady, NotFound, Overloaded
from headrace.monitoring import payload_files
from headrace.monitoring.metrics import Metrics
from headrace.monitoring.settings import PayloadSettings, TrustSettings
from headrace.monitoring.trust_metrics import TrustMetrics
from headrace.monitoring.watch import Watch
from headrace.payload import InferenceRequest, Tensor
from headrace.trust import states
from headrace.trust.folder import open_folder
from headrace.trust.spec import DetectorSpec, Window


class Site:
    """A watch and the models that it asks."""

    def __init__(self, folder, *, payloads=None, **settings):
        self.trust = TrustSettings(state=str(folder / "state"), **settings)
        self.metrics = TrustMetrics(seldon_names=True)
        payloads = payloads or PayloadSettings()
        self.watch = Watch(self.trust, payloads, ask=lambda model, _: self.models[model], metrics=self.metrics)
        self.models = {}

    def serve(self, model, version, small, folder):
        self.models[model] = small.infer
        return self.watch.watch(model=model, version=version, folder=folder, infer=small.infer)

    async def until(self, is_so, model="m", version="1"):
        """The first status of which something is so."""
        async with asyncio.timeout(60):
            while True:
                status = await self.watch.status(model, version)
                if is_so(status):
                    return status
                await asyncio.sleep(0.02)


@pytest.fixture
async def site(tmp_path):
    made = []

    def make(**settings):
        made.append(Site(tmp_path, **settings))
        return made[-1]

    yield make
    for each in made:
        await each.watch.close()


def ready(status):
    return status["fresh"] and "rows" in status


def has_rows(rows, status):
    return status["rows"] == rows


async def send(infer, x, *, model="m", size=10, **more):
    """Rows in requests of a size, and the ids of their answers."""
    ids = []
    for at in range(0, len(x), size):
        request = InferenceRequest(
            model_name=model, inputs=(Tensor("x", "FP64", np.ascontiguousarray(x[at : at + size])),), **more
        )
        ids.append((await infer(request)).id)
    return ids


def latest(status, name="input-drift"):
    return next(each for each in status["detectors"] if each["name"] == name)


async def test_drift_is_seen_labelled_and_drawn(site, tmp_path):
    """Shifted rows sent through the tap become a verdict, metrics and a page; labels find their request."""
    truth = DetectorSpec(name="truth", method="realised", kind="performance", on="predictions", window=Window(rows=60))
    CANCER.write(tmp_path / "trust", [drift(), outlier(), truth])
    here = site()
    infer = here.serve("m", "1", CANCER, tmp_path / "trust")
    await here.until(ready)
    ids = await send(infer, CANCER.fresh[:60] + 0.8)
    status = await here.until(lambda each: each["rows"] == 60 and latest(each)["windows"] == 1)
    data = latest(status)["latest"]["data"]
    expected = open_folder(tmp_path / "trust").detector("input-drift").test(CANCER.fresh[:60] + 0.8)
    assert data["p_val"] == expected.p_value.tolist()
    assert status["state"] == "warning"

    assert await here.watch.label("m", "1", ids[0], ["benign"] * 10)
    assert not await here.watch.label("m", "", ids[0], ["benign"] * 10)
    with pytest.raises(InvalidRequest, match="has 10 rows, and 1 labels came"):
        await here.watch.label("m", "", ids[1], ["benign"])

    page = (await here.watch.report("m", "1")).decode()
    assert page.startswith("<!doctype html>")
    assert "<script" not in page
    assert page.count("<svg") == 5
    assert 'src="' not in page

    shown = {
        (sample.name, sample.labels.get("feature", ""), sample.labels.get("drift", "")): sample.value
        for family in samples(here.metrics)
        for sample in family
        if sample.labels.get("detector") == "input-drift"
    }
    assert shown["headrace_drift_is_drift", "instance", ""] == 1.0
    assert shown["headrace_drift_windows_total", "", "true"] == 1
    assert shown["headrace_drift_p_value", CANCER.names[0], ""] == data["p_val"][0]
    seldon = {each.name for each in here.metrics.seldon()}
    assert {"seldon_metric_drift_is_drift", "seldon_metric_outlier_is_outlier"} <= seldon


def samples(trust):
    metrics = Metrics()
    metrics.trust = trust
    return [family.samples for family in metrics.collect()]


async def test_two_versions_are_watched_apart(site, tmp_path):
    """Drift of one version is not the other's, though their requests are mixed."""
    CANCER.write(tmp_path / "a", [drift()])
    CANCER.write(tmp_path / "b", [drift()])
    here = site()
    one, two = here.serve("m", "1", CANCER, tmp_path / "a"), here.serve("m", "2", CANCER, tmp_path / "b")
    await here.until(ready)
    await here.until(ready, version="2")
    for at in range(0, 60, 20):
        await send(one, CANCER.reference[at : at + 20])
        await send(two, CANCER.reference[at : at + 20] + 1.0)
    usual = await here.until(lambda each: latest(each)["windows"] == 1)
    shifted = await here.until(lambda each: latest(each)["windows"] == 1, version="2")
    assert [latest(each)["drift_windows"] for each in (usual, shifted)] == [0, 1]
    assert latest(shifted)["latest"]["version"] == "2"


def rows_of(path):
    """How many rows a stream had seen when its state was written."""
    return states.load(path.read_bytes(), where=str(path)).parameters["state"]["rows"]


async def test_killing_the_watcher_loses_little_and_stops_nobody(site, tmp_path):
    """After kill -9 answers go on, the child starts again, and the window that was written goes on where it was."""
    WINE.write(tmp_path / "trust", [drift()])
    here = site(snapshot_seconds=0.05)
    infer = here.serve("m", "1", WINE, tmp_path / "trust")
    await here.until(ready)
    await send(infer, WINE.fresh[:40])
    await here.until(lambda each: each["rows"] == 40)
    path = tmp_path / "state" / "m" / "1.npz"
    await send(infer, WINE.fresh[:10])
    await here.until(lambda each: each["rows"] == 50)
    async with asyncio.timeout(30):
        while not path.exists() or rows_of(path) != 50:
            await asyncio.sleep(0.02)
    killed = here.watch.pid
    os.kill(killed, signal.SIGKILL)
    await send(infer, WINE.fresh[:1])
    status = await here.until(lambda each: ready(each) and each["watcher"]["pid"] not in {0, killed})
    assert status["rows"] == 50
    assert latest(status)["collecting"] == {
        "status": "collecting", "rows": 50, "needed": 60, "least": 30, "seconds": 3600.0,
    }  # fmt: skip
    assert (status["watcher"]["restarts"], status["watcher"]["ending"]) == (1, "was ended by signal SIGKILL")
    await send(infer, WINE.fresh[:10])
    status = await here.until(lambda each: latest(each)["windows"] == 1)
    assert latest(status)["latest"]["data"]["rows"] == 60


async def test_a_stop_writes_everything_down(tmp_path):
    """What was gathered when the server stops is there when it starts again, though nothing is written in between."""
    CANCER.write(tmp_path / "trust", [drift()])
    for rows in (30, 55):
        here = Site(tmp_path, snapshot_seconds=0.0)
        infer = here.serve("m", "1", CANCER, tmp_path / "trust")
        await here.until(ready)
        await send(infer, CANCER.fresh[: 30 if rows == 30 else 25])
        status = await here.until(partial(has_rows, rows))
        await here.watch.close()
    assert latest(status)["collecting"]["rows"] == 55


async def test_state_of_another_reference_starts_anew(tmp_path):
    """With a trust folder that was fitted again, windows begin at nothing, and that is told."""
    for small, refused in ((CANCER, 0), (WINE, 1)):
        small.write(tmp_path / "trust", [drift()])
        here = Site(tmp_path)
        infer = here.serve("m", "1", small, tmp_path / "trust")
        status = await here.until(ready)
        assert (status["rows"], status["snapshots_refused"]) == (0, refused)
        await send(infer, small.fresh[:20])
        await here.until(lambda each: each["rows"] == 20)
        await here.watch.close()


async def test_more_than_may_wait_is_dropped_and_counted(site, tmp_path):
    """Rows beyond the bound are answered at once and counted as dropped; none is lost without being counted."""
    CANCER.write(tmp_path / "trust", [drift(rows=20)])
    here = site(max_waiting_rows=200)
    infer = here.serve("m", "1", CANCER, tmp_path / "trust")
    await here.until(ready)
    os.kill(here.watch.pid, signal.SIGSTOP)
    try:
        for _ in range(20):
            await send(infer, CANCER.fresh[:50], size=50)
            here.watch._flush()
        stuck = await here.watch.status("m", "1")
    finally:
        os.kill(here.watch.pid, signal.SIGCONT)
    assert not stuck["fresh"]
    assert stuck["dropped_rows"] > 0
    status = await here.until(lambda each: each["rows"] + each["dropped_rows"] == 1000)
    assert status["dropped_rows"] >= 500


async def test_what_is_not_watched_is_told(site, tmp_path):
    """A model without a trust folder is served as it is, and asking about it says so."""
    here = site()
    assert here.watch.watch(model="m", version="", folder=None, infer=CANCER.infer) == CANCER.infer
    assert here.watch.pid == 0
    with pytest.raises(NotFound, match="'m' is not watched"):
        await here.watch.status("m")


async def test_a_folder_that_cannot_be_read_harms_no_other_model(site, tmp_path):
    """The damaged one is told as failed, and the other is watched."""
    CANCER.write(tmp_path / "good", [drift()])
    CANCER.write(tmp_path / "bad", [drift()])
    (tmp_path / "bad" / "schema.json").write_text("{}")
    here = site()
    infer = here.serve("m", "1", CANCER, tmp_path / "good")
    other = here.serve("n", "1", CANCER, tmp_path / "bad")
    await send(other, CANCER.fresh[:10])
    status = await here.until(lambda each: each["fresh"] and each["state"] == "failed", model="n")
    assert "schema.json: it is not the file that was written" in status["error"]
    with pytest.raises(ModelNotReady, match=r"not watched: .*schema\.json"):
        await here.watch.report("n")
    await here.until(ready)
    await send(infer, CANCER.fresh[:10])
    await here.until(lambda each: each["rows"] == 10)


async def test_every_exchange_is_counted_by_the_payload_log_over_deaths_of_the_child(site, tmp_path):
    """Sent, dropped and failed are what was answered, also of exchanges that were with a child when it was killed or
    came while there was none; and labels that were acknowledged are on disk.
    """
    sink = tmp_path / "payloads"
    CANCER.write(tmp_path / "trust", [drift()])
    here = site(payloads=PayloadSettings(mode="all", sink=str(sink), flush_seconds=3600))
    infer = here.serve("m", "1", CANCER, tmp_path / "trust")
    await here.until(ready)
    (known, *_) = await send(infer, CANCER.fresh[:50])
    await here.until(partial(has_rows, 50))
    assert await here.watch.label("m", "1", known, ["benign"] * 10)
    os.kill(here.watch.pid, signal.SIGKILL)
    await send(infer, CANCER.fresh[:30])
    await here.until(lambda each: ready(each) and each["watcher"]["restarts"] == 1)
    await send(infer, CANCER.fresh[:20])
    await here.until(lambda each: each["fresh"] and each["rows"] >= 20 and not each["lag_rows"])
    await here.watch.close()
    counts = here.metrics.counts["payloads"]
    assert (sum(counts.values()), counts["failed"]) == (10, 0)
    assert counts["sent"] >= 2
    (labels,) = [file for file in payload_files.find(sink) if file.is_labels]
    assert [each["request_id"] for lines in payload_files.read_labels(labels.path) for each in lines] == [known]


async def test_a_page_is_asked_for_again_while_the_watcher_begins(site, tmp_path):
    """Before the folder is read, a report is no NotFound but an answer that says when to come back."""
    CANCER.write(tmp_path / "trust", [drift()])
    here = site()
    here.serve("m", "1", CANCER, tmp_path / "trust")
    with pytest.raises(Overloaded, match=r"starting|being read") as refused:
        await here.watch.report("m", "1")
    assert refused.value.retry_after_seconds > 0


async def test_a_model_that_is_forgotten_keeps_its_state(site, tmp_path):
    """Watched again, it goes on where it was."""
    CANCER.write(tmp_path / "trust", [drift()])
    here = site()
    infer = here.serve("m", "1", CANCER, tmp_path / "trust")
    await here.until(ready)
    await send(infer, CANCER.fresh[:20])
    await here.until(lambda each: each["rows"] == 20)
    here.watch.forget("m", "1")
    with pytest.raises(NotFound):
        await here.watch.status("m", "1")
    here.serve("m", "1", CANCER, tmp_path / "trust")
    assert (await here.until(ready))["rows"] == 20


async def test_probabilities_are_asked_below_the_tap(site, tmp_path):
    """A detector of outputs gets what callers did not ask for, and its own question is not watched."""

    class Bare:
        async def infer(self, request):
            answer = await CANCER.infer(request)
            if "headrace-internal" in request.headers:
                return answer
            (tensor,) = answer.outputs
            return msgspec.structs.replace(answer, outputs=(msgspec.structs.replace(tensor, name="other"),))

    CANCER.write(tmp_path / "trust", [drift("output-drift", on="outputs")])
    here = site()
    infer = here.serve("m", "1", Bare(), tmp_path / "trust")
    await here.until(ready)
    await send(infer, CANCER.fresh[:60])
    status = await here.until(lambda each: latest(each, "output-drift")["windows"] == 1)
    assert status["rows"] == 60
    assert latest(status, "output-drift")["latest"]["data"]["rows"] == 60
