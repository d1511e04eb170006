"""Keys at the door of REST and gRPC, over real sockets."""

from __future__ import annotations

import hashlib
import http.client
import json

import grpc
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import headrace
from headrace.errors import SettingsError

KEY = "a-key-of-the-shop"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    keys = tmp_path_factory.mktemp("keys") / "keys.yaml"
    keys.write_text(f"shop: {{role: partner, sha256: {hashlib.sha256(KEY.encode()).hexdigest()}}}\n")
    model = LogisticRegression().fit(np.array([[0.0], [1.0]]), [0, 1])
    settings = {"security.keys_file": str(keys), "security.require_key": True, "models.optimize": "off"}
    with headrace.serve(model, name="m", settings=settings) as running:
        yield running


def ask(server, method, path, body=None, headers=()):
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=60)
    connection.request(method, path, body, dict(headers))
    reply = connection.getresponse()
    answer = reply.status, reply.getheader("www-authenticate"), reply.read()
    connection.close()
    return answer


BODY = json.dumps({"inputs": [{"name": "x", "datatype": "FP64", "shape": [1, 1], "data": [1.0]}]})


@pytest.mark.parametrize(
    "path", ["/v2/models/m/infer", "/v2/repository/index", "/v2/models/m/explain", "/v2/repository/models/m/unload"]
)
def test_a_caller_without_a_key_is_refused(server, path):
    """Without a key nothing but health answers, and the reply says how to show one."""
    status, challenge, body = ask(server, "POST", path, BODY)
    assert (status, challenge) == (401, 'Bearer realm="headrace"')
    assert b"a key is needed" in body


def test_a_caller_with_a_key_is_answered(server):
    """With its key, in either header, a caller is answered; with another, refused."""
    for headers in ({"authorization": f"Bearer {KEY}"}, {"x-api-key": KEY}):
        assert ask(server, "POST", "/v2/models/m/infer", BODY, headers.items())[0] == 200
    assert ask(server, "POST", "/v2/models/m/infer", BODY, {"x-api-key": "other"}.items())[0] == 401


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready"])
def test_health_is_open(server, path):
    """Who asks whether the server lives needs no key."""
    assert ask(server, "GET", path)[0] == 200


def test_grpc_asks_for_the_key_too(server):
    """A call without the key in its metadata is UNAUTHENTICATED, with it it is answered; health is open."""
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:

        def call(path, *metadata):
            return channel.unary_unary(path)(b"", timeout=60, metadata=metadata)

        with pytest.raises(grpc.RpcError) as caught:
            call("/inference.GRPCInferenceService/ServerMetadata")
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert call("/inference.GRPCInferenceService/ServerMetadata", ("authorization", f"Bearer {KEY}"))
        call("/inference.GRPCInferenceService/ServerLive")
        call("/grpc.health.v1.Health/Check")


def test_a_key_file_that_is_not_there_stops_the_start(tmp_path):
    """A server that should ask for keys and cannot does not start."""
    model = LogisticRegression().fit(np.array([[0.0], [1.0]]), [0, 1])
    with pytest.raises(SettingsError, match=r"security\.keys_file"):
        headrace.serve(model, name="m", settings={"security.keys_file": str(tmp_path / "none")})
