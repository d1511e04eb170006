"""Requests for explanations and their answers, as bodies: parameters, formats by header, JSON without surprises.

Left out: how rows are read (the V2 and V1 parsers' tests) and who explains (`serving.explain`'s).
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from headrace.errors import DeadlineExceeded, InvalidRequest
from headrace.payload import InferenceRequest, Tensor
from headrace.protocols import explain
from headrace.protocols.explain import Explained, ExplainReply, JobStatus


def request(**parameters):
    tensor = Tensor("x", "FP64", np.zeros((2, 2)))
    return InferenceRequest(model_name="m", inputs=(tensor,), parameters=parameters)


def explained(**changes):
    given = {
        "row": 0,
        "meta": b'{"name":"lime"}',
        "data": b'{"weights":[1.0,null]}',
        "text": "because",
        "complete": True,
        "model_rows": 7,
        "seconds": 0.25,
    }
    return Explained(**{**given, **changes})


def reply(*explanations):
    return ExplainReply(
        model_name="m", model_version="1", explainer="why", method="lime", explanations=explanations or (explained(),)
    )


def test_parameters_are_read():
    """Each parameter has its field; the object of options may be its JSON, for wires that carry none."""
    asked = explain.parse(
        request(
            explainer="why",
            explain_parameters='{"threshold": 0.9}',
            deadline_ms=250,
            max_model_calls=10,
            rows=[1],
            format="text",
            mode="job",
        )
    )
    assert (asked.explainer, asked.options, asked.deadline_seconds) == ("why", {"threshold": 0.9}, 0.25)
    assert (asked.max_rows, asked.rows, asked.format, asked.is_job) == (10, (1,), "text", True)


def test_nothing_said_is_nothing_asked():
    """Without parameters every field is left to the model's folder."""
    asked = explain.parse(request())
    assert (asked.explainer, asked.options, asked.deadline_seconds, asked.max_rows, asked.rows) == (
        "", {}, None, None, None
    )  # fmt: skip
    assert (asked.format, asked.is_job) == ("machine", False)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"explaner": "x"}, "did you mean 'explainer'"),
        ({"explainer": 1}, "must be a text"),
        ({"explain_parameters": [1]}, "must be an object"),
        ({"explain_parameters": "{"}, "JSON"),
        ({"deadline_ms": 0}, "above 0"),
        ({"deadline_ms": True}, "above 0"),
        ({"deadline_ms": float("nan")}, "above 0"),
        ({"max_rows": 1.5}, "whole number"),
        ({"rows": [-1]}, "positions from 0"),
        ({"rows": []}, "positions from 0"),
        ({"rows": list(range(1001))}, "1000"),
        ({"format": "pgn"}, "did you mean 'png'"),
        ({"mode": "later"}, "one of sync, job"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_meant_is_refused(parameters, expected):
    """A parameter that is unknown or out of its range is named, with what it may be."""
    with pytest.raises(InvalidRequest, match=expected):
        explain.parse(request(**parameters))


def test_parameters_of_others_are_passed_over_where_they_may_be():
    """What inference requests carry anyway is no fault, and in a pipeline neither is another step's parameter."""
    explain.parse(request(content_type="np", headers={}, binary_data_output=True))
    assert explain.parse(request(temperature=1), strict=False).explainer == ""


def test_v1_has_parameters_beside_or_inside():
    """The same names count in a member `parameters` and beside it."""
    asked = explain.parse_v1(request(deadline_ms=100, parameters={"explainer": "why"}, id="7"))
    assert (asked.deadline_seconds, asked.explainer) == (0.1, "why")
    with pytest.raises(InvalidRequest, match="must be an object"):
        explain.parse_v1(request(parameters=3))


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", "machine"),
        ("*/*", "machine"),
        ("text/html, */*;q=0.8", "machine"),
        ("text/plain", "text"),
        ("image/png", "png"),
        ("image/*", "svg"),
        ("text/plain;q=0.5, image/svg+xml;q=0.9", "svg"),
        ("application/json, text/plain", "machine"),
        ("text/plain;q=x", "machine"),
        ("text/plain;q=0", "machine"),
    ],
)
def test_the_header_says_the_format(accept, expected):
    """The format preferred by Accept is answered where no parameter says another."""
    assert explain.parse(request(), accept=accept).format == expected
    assert explain.parse(request(format="text"), accept=accept).format == "text"


def test_the_machine_form():
    """Meta and data stand as they were made; warnings only where there are any."""
    document = json.loads(explain.render(reply(explained(warnings=("few rows",)), explained(row=1))))
    first, second = document["explanations"]
    assert (document["model_name"], document["explainer"], document["method"]) == ("m", "why", "lime")
    assert (first["meta"], first["data"], first["text"]) == ({"name": "lime"}, {"weights": [1.0, None]}, "because")
    assert (first["warnings"], "warnings" in second, second["row"]) == (["few rows"], False, 1)


def test_v1_of_one_row_is_a_bare_explanation_too():
    """Of one row `meta` and `data` are at the top as well; of several they are not."""
    one = json.loads(explain.render_v1(reply()))
    assert one["data"] == one["explanations"][0]["data"]
    assert "data" not in json.loads(explain.render_v1(reply(explained(), explained(row=1))))


def test_the_text_form():
    """Several rows have their numbers, and what is incomplete says so."""
    text = explain.render_text(reply(explained(complete=False), explained(row=3, warnings=("odd",)))).decode()
    assert text.startswith("Row 0:\nbecause\nThis is the best")
    assert "Row 3:\nbecause\nNote: odd" in text
    assert explain.render_text(reply()).decode() == "because\n"


def test_a_picture_is_of_one_row():
    """One explanation's picture is answered; of several, of none asked for, or of nothing, the text says what to do."""
    assert explain.render_image(reply(explained(image=b"<svg/>"))) == b"<svg/>"
    with pytest.raises(InvalidRequest, match="'rows'"):
        explain.render_image(reply(explained(), explained()))
    with pytest.raises(InvalidRequest, match="format"):
        explain.render_image(reply())
    with pytest.raises(DeadlineExceeded, match="because"):
        explain.render_image(reply(explained(complete=False)))


def test_a_job_is_rendered():
    """A job has its address and progress; the answer or the error only once there is one."""
    status = JobStatus(id="7", state="running", explained=1, of=2, model_rows=90, seconds=1.0)
    document = json.loads(explain.render_job(status, "/v2/models/m/explain/jobs/7"))
    assert document["progress"] == {"explained": 1, "of": 2, "model_rows": 90}
    assert document.keys().isdisjoint({"error", "result"})
    done = JobStatus(id="7", state="done", explained=2, of=2, model_rows=90, seconds=1.0, reply=reply())
    assert json.loads(explain.render_job(done, "/"))["result"]["explanations"]
