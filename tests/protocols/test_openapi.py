"""The OpenAPI document and its page: consistent with themselves, and examples that the parsers take."""

import json
import re
from html.parser import HTMLParser

import orjson
import pytest

from headrace.payload import DTYPES, Signature, TensorSpec
from headrace.protocols import openapi, v1, v2_rest
from headrace.protocols.routes import ROUTES


def declared(*specs):
    return Signature(platform="test", inputs=tuple(TensorSpec(name=n, datatype=d, shape=s) for n, d, s in specs))


IRIS = declared(("X", "FP32", (-1, 4)))
MIXED = declared(*((f"in-{name}", name, (-1, 2, 3)) for name in DTYPES if name not in {"FP16", "BF16"}))
HALF = declared(("h", "FP16", (-1,)))


def test_every_route_is_documented_once():
    """Paths and methods of the table and the document are the same."""
    paths = openapi.document([("iris", IRIS)])["paths"]
    documented = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert documented == {(route.method, route.path) for route in ROUTES}
    assert len(documented) == len(ROUTES)


def test_every_reference_leads_somewhere():
    """No schema is named that is not there, none is there that is not named; operation ids differ."""
    document = json.loads(orjson.dumps(openapi.document([("iris", IRIS)])))
    named = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert named == set(document["components"]["schemas"])
    ids = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert len(ids) == len(set(ids))
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert [each["name"] for each in operation.get("parameters", [])] == re.findall(r"{(\w+)}", path)


@pytest.mark.parametrize("signature", [IRIS, MIXED], ids=["one input", "all datatypes"])
def test_examples_are_requests_that_the_model_takes(signature):
    """An example parses to the tensors that the signature declares, in V2 and V1 alike."""
    paths = openapi.document([("m", signature)])["paths"]
    for path, parse in (("/v2/models/{model}/infer", v2_rest.parse), ("/v1/models/{model}:predict", v1.parse)):
        content = paths[path]["post"]["requestBody"]["content"]["application/json"]
        request = parse(orjson.dumps(content["examples"]["m"]["value"]), model_name="m", signature=signature)
        assert [(each.name, each.datatype) for each in request.inputs] == [
            (each.name, each.datatype) for each in signature.inputs
        ]
        for tensor, spec in zip(request.inputs, signature.inputs, strict=True):
            assert tensor.shape == (1, *spec.shape[1:])


@pytest.mark.parametrize(
    "signature",
    [None, HALF, declared(), declared(("x", "FP32", (-1, 1000, 1000)))],
    ids=["none", "half", "no input", "large"],
)
def test_a_model_without_an_example_is_still_documented(signature):
    """What JSON cannot carry, or nobody would read, has no example."""
    document = openapi.document([("m", signature)])
    content = document["paths"]["/v2/models/{model}/infer"]["post"]["requestBody"]["content"]["application/json"]
    assert "examples" not in content
    assert document["paths"]["/v2/models/{model}"]["get"]["parameters"][0]["schema"]["examples"] == ["m"]


class _Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.text, self.addresses = "", []

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in {"src", "href", "action"}]

    def handle_data(self, data):
        self.text += data


def test_the_page_needs_nothing_from_outside():
    """No script, style or image comes from another address, so that it works offline."""
    page = openapi.page("iris", "/openapi.json").decode()
    parsed = _Page()
    parsed.feed(page)
    assert parsed.addresses == []
    assert "://" not in page
    assert '"/openapi.json"' in page


def test_the_page_shows_names_as_text():
    """A model's name cannot write into the page."""
    page = openapi.page('<script>"&', '/v2/models/</script>"/docs').decode()
    assert "&lt;script&gt;" in page
    assert page.count("</script>") == 1
    assert "{{" not in page
