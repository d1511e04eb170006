"""The page about Kafka: its client is run against a server of its settings, and its pipeline against a broker."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import joblib
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

PAGE = (Path(__file__).parents[2] / "docs" / "kafka.md").read_text()


def block(kind, starting=""):
    """The first block of a kind."""
    return next(
        text for text in re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE) if starting in text
    )


def ended(server):
    """The server ends while its broker is there."""
    server.process.terminate()
    server.process.wait(30)


@pytest.fixture
def folder(tmp_path):
    rows, labels = load_iris(return_X_y=True)
    joblib.dump(LogisticRegression(max_iter=500).fit(rows, labels), tmp_path / "iris.joblib")
    joblib.dump(StandardScaler().fit(rows), tmp_path / "scale.joblib")
    joblib.dump(LogisticRegression(max_iter=500).fit(rows, labels), tmp_path / "churn.joblib")
    return tmp_path


def test_the_client_gets_its_answer(folder, serve, broker):
    """`headrace serve --kafka` with the page's settings answers what the page's client asks, as the page shows it."""
    environ = {"HEADRACE_KAFKA_BROKERS": broker.bootstrap}
    server = serve(folder / "iris.joblib", "--kafka", "--set", "kafka.create_topics=true", environment=environ)
    (folder / "ask.py").write_text(block("python", "# ask.py"))
    said = subprocess.run(
        [sys.executable, folder / "ask.py"], capture_output=True, text=True, env={**os.environ, **environ}, timeout=120
    )
    ended(server)
    assert said.stdout == block("console").partition("\n")[2], said.stderr


def test_the_pipeline_answers_and_gives_results_by_id(folder, serve, broker):
    """The page's pipeline answers, asynchronously too, and the topics have the names that the page's table gives."""
    models = "".join(
        f"apiVersion: headrace.io/v1\nkind: Model\nmetadata: {{name: {name}}}\nspec: {{uri: {name}.joblib}}\n---\n"
        for name in ("scale", "churn")
    )
    (folder / "shop.yaml").write_text(models + block("yaml"))
    server = serve(
        "-f",
        folder / "shop.yaml",
        "--state",
        folder / "state.db",
        "--control-port",
        "0",
        environment={"HEADRACE_KAFKA_BROKERS": broker.bootstrap},
    )
    body = {"inputs": [{"name": "input-0", "shape": [1, 4], "datatype": "FP64", "data": [5.1, 3.5, 1.4, 0.2]}]}
    deadline = time.monotonic() + 60
    while server.ask("/v2/pipelines/shop/ready")[0] != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    status, _, answer = server.ask("/v2/pipelines/shop/infer", body)
    assert (status, answer["outputs"][0]["shape"]) == (200, [1])
    headers = {"prefer": "respond-async", "x-request-id": "order-2"}
    status, sent, _ = server.ask("/v2/pipelines/shop/infer", body, headers)
    assert (status, sent["location"]) == (202, "/v2/pipelines/shop/results/order-2")
    while (result := server.ask("/v2/pipelines/shop/results/order-2"))[0] == 202:
        assert time.monotonic() < deadline
    assert (result[0], result[2]["outputs"][0]["data"]) == (200, answer["outputs"][0]["data"])
    assert server.ask("/v2/pipelines/shop/results/nobody")[0] == 404
    other = {"inputs": [{**body["inputs"][0], "data": [0.0, 0.0, 0.0, 0.0]}]}
    assert server.ask("/v2/pipelines/shop/infer", other, headers)[0] == 409

    from confluent_kafka.admin import AdminClient

    ended(server)
    there = set(AdminClient({"bootstrap.servers": broker.bootstrap}).list_topics(timeout=20).topics)
    named = re.findall(r"^\| `(headrace\.default\.[\w.]+)`", PAGE, re.MULTILINE)
    assert len(named) == 4
    assert set(named) <= there


def test_every_setting_that_the_page_names_is_one():
    """Each `kafka.*` name of the page is a setting."""
    from dataclasses import fields

    from headrace.brokers.settings import KafkaSettings

    named = set(re.findall(r"`kafka\.(\w+)", PAGE))
    assert named
    assert named <= {each.name for each in fields(KafkaSettings)}
