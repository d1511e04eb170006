"""Names of the topics of durable pipelines, and the keys and headers of their records, in both namings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.protocols import pipeline_topics as topics
from headrace.protocols.pipeline_topics import Names

IDS = st.text("abcdefghijklmnopqrstuvwxyz0123456789-._", min_size=1, max_size=40)


def test_our_topics_belong_to_their_pipeline():
    """No topic of a pipeline has the name of another pipeline's, and the group is named as the topics are."""
    names = Names(namespace="shop")
    assert names.inputs("p") == "headrace.shop.pipeline.p.inputs"
    assert names.outputs("p") == "headrace.shop.pipeline.p.outputs"
    assert names.errors("p") == "headrace.shop.pipeline.p.errors"
    assert names.step("p", "a", "inputs", model="m") == "headrace.shop.pipeline.p.step.a.inputs"
    assert names.group("p") == "headrace.shop.pipeline.p"


def test_seldons_topics_are_those_of_core_v2():
    """With Seldon's naming, pipelines, models and errors have Core v2's topics, with any prefix."""
    names = Names(naming="seldon")
    assert names.inputs("p") == "seldon.default.pipeline.p.inputs"
    assert names.outputs("p") == "seldon.default.pipeline.p.outputs"
    assert names.errors("p") == "seldon.default.errors.errors"
    assert names.step("p", "a", "outputs", model="iris") == "seldon.default.model.iris.outputs"
    assert names.step("p", "a", "outputs") == "seldon.default.model.a.outputs"
    assert Names(naming="seldon", prefix="mlops", namespace="ns").inputs("p") == "mlops.ns.pipeline.p.inputs"


@given(identity=IDS, partitions=st.integers(1, 64))
def test_the_id_stands_in_seldons_key(identity, partitions):
    """The id of a request is found again in the key that Seldon's naming gives it, whatever its letters."""
    names = Names(naming="seldon")
    key = names.key("p", identity, partitions=partitions)
    assert 0 <= int(key.split(b".")[0]) < partitions
    assert names.id_of("p", key, "", place="p0o1") == identity
    assert names.id_of("p", f"p.{identity}".encode(), "", place="p0o1") == identity


@pytest.mark.parametrize("naming", ["headrace", "seldon"])
def test_a_foreign_key_is_no_id(naming):
    """Two records of one customer's key are two requests, unless their header says that they are one."""
    names = Names(naming=naming)
    assert names.id_of("p", b"customer-7", "", place="p0o1") == "p0o1"
    assert names.id_of("p", b"customer-7", "", place="p0o2") == "p0o2"
    assert names.id_of("p", b"customer-7", "r", place="p0o2") == "r"


def test_what_a_caller_is_known_by_is_kept_in_no_topic():
    """Keys, tokens and cookies do not go along, however they are called, and their values stand nowhere."""
    names = ["x-api-key", "x-auth-token", "x-amz-security-token", "x-session-cookie", "authorization", "headrace-key"]
    made = topics.headers({topics.PIPELINE: "p"}, [(name, "tell-nobody") for name in names])
    assert made == (("pipeline", b"p"),)


def test_headers_of_a_caller_do_not_pass_for_ours():
    """What a caller calls like a header of ours does not go along, nor what concerns its own connection only."""
    given = {"x-user": "u", "traceparent": "t", "headrace-error": "Nope", "authorization": "secret", "host": "h"}
    made = topics.headers({topics.PIPELINE: "p", topics.ERROR: "", topics.REQUEST_ID: "r"}, given.items())
    assert made == (("pipeline", b"p"), ("x-request-id", b"r"), ("x-user", b"u"), ("traceparent", b"t"))
    assert topics.texts((*made, ("X-USER", b"other"))) == {
        "pipeline": "p",
        "x-request-id": "r",
        "x-user": "u",
        "traceparent": "t",
    }
