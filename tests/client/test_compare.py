"""Comparing two sides: lines of logs, differences of answers, and replays on a scripted server.

Matrix of differences: floats, whole numbers, booleans, text, NaN and infinities, shapes, outputs that one side lacks;
each with tolerance. Left out: binary answers, which `test_tensors` reads.
"""

import base64
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from headrace.client import compare, compare_page, recorded
from headrace.client.channel import NotConnected
from headrace.client.compare import Options, side_of
from headrace.client.differences import EDGES, Tally, Tolerance, differ, median_interval, wilson
from headrace.errors import InvalidRequest, ModelNotFound, ModelNotReady
from headrace.payload import InferenceResponse, Tensor, datatype_of

REQUEST = {"inputs": [{"name": "x", "shape": [2, 1], "datatype": "FP64", "data": [1.0, 2.0]}]}
EXACT = Tolerance(rtol=0, atol=0)


def line(*values, **rest):
    tensor = {"name": "x", "shape": [len(values), 1], "datatype": "FP64", "data": [float(each) for each in values]}
    return json.dumps({"inputs": [tensor], **rest}).encode()


def answer(**outputs):
    tensors = []
    for name, value in outputs.items():
        array = np.asarray(value)
        if array.dtype.kind == "U":
            array = np.array([each.encode() for each in array.ravel()] + [None], dtype=object)[:-1].reshape(array.shape)
        tensors.append(Tensor(name, datatype_of(array), array))
    return InferenceResponse(model_name="m", outputs=tuple(tensors))


# -- lines --


@pytest.mark.parametrize(
    "value",
    [
        REQUEST,
        {"request": REQUEST, "response": {"outputs": []}},
        {"request": json.dumps(REQUEST)},
        {"specversion": "1.0", "type": "org.kubeflow.serving.inference.request", "data": REQUEST},
        {"specversion": "1.0", "data": {"request": REQUEST, "response": {}}},
        {"data": json.dumps(REQUEST)},
        {"data_base64": base64.b64encode(json.dumps(REQUEST).encode()).decode()},
    ],
    ids=["request", "exchange", "exchange of text", "event", "event of an exchange", "event of text", "base64"],
)
def test_forms_of_lines(value):
    """Whatever it is wrapped in, the request is found as it is."""
    found = recorded.parse(3, json.dumps(value).encode())
    assert found.request.index == 3
    assert json.loads(bytes(found.request.fields["inputs"])) == REQUEST["inputs"]


@pytest.mark.parametrize(
    "value",
    [b"", b"  ", b'{"outputs": []}', b'{"type": "org.kubeflow.serving.inference.response", "data": {"x": 1}}'],
)
def test_lines_without_a_request(value):
    """Empty lines and answers hold no request, and are no mistake."""
    assert recorded.parse(0, value) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"nonsense", "expected a request or an exchange in JSON"),
        (b"[1]", "expected a request or an exchange in JSON"),
        (b"{}", "found nothing"),
        (b'{"instances": [[1]]}', "found instances; a V1 request"),
        (b'{"request": [1]}', "expected a V2 inference request"),
        (b'{"request": {"request": {}}}', "expected a V2 inference request"),
        (b'{"data": 5}', "expected a request or an exchange in JSON"),
        (b'{"data_base64": "!"}', "expected base64"),
        (b'{"data": {"data": {"inputs": []}}}', "found data"),
    ],
)
def test_lines_that_are_wrong(value, text):
    """A line that is none of the forms is refused with its number and what was found."""
    with pytest.raises(InvalidRequest, match=r"line 7: .*") as caught:
        recorded.parse(7, value)
    assert text in str(caught.value)


@given(st.binary(max_size=60) | st.text(alphabet='{}[]":,requstdainp 01', max_size=60).map(str.encode))
def test_any_line(value):
    """Any bytes are a request, none, or refused; nothing else is raised."""
    try:
        found = recorded.parse(0, value)
    except InvalidRequest:
        return
    assert found is None or found.request.index == 0


def test_events_name_their_request():
    """A request without an id of its own goes by that of its event."""
    found = recorded.parse(0, json.dumps({"id": "e7", "data": REQUEST}).encode())
    assert found.request.id == "e7"


# -- differences --

FLOATS = arrays.arrays(np.float64, 5, elements=st.floats(width=64))


@given(FLOATS)
def test_everything_equals_itself(values):
    """Numbers agree with themselves at any tolerance, NaN and infinities too."""
    assert not differ(values, values.copy(), EXACT).any()


@given(FLOATS, FLOATS, st.floats(0, 1), st.floats(0, 10))
def test_tolerance_is_symmetrical(a, b, rtol, atol):
    """Whether two numbers agree does not depend on which comes first."""
    tolerance = Tolerance(rtol=rtol, atol=atol)
    assert (differ(a, b, tolerance) == differ(b, a, tolerance)).all()


@pytest.mark.parametrize(
    ("a", "b", "tolerance", "expected"),
    [
        ([1.0, 1.0], [1.0, 1.1], EXACT, [False, True]),
        ([1.0, 100.0], [1.05, 105.0], Tolerance(rtol=0.1, atol=0), [False, False]),
        ([0.0], [1e-7], Tolerance(), [False]),
        ([math.nan, math.nan], [math.nan, 1.0], Tolerance(rtol=1, atol=1), [False, True]),
        ([math.inf, math.inf], [-math.inf, 1e308], Tolerance(rtol=1, atol=1), [True, True]),
        ([1_000_000], [1_000_001], Tolerance(rtol=0.1, atol=0.5), [True]),
        ([7], [8], Tolerance(atol=1), [False]),
        ([2**60], [2**60 + 1], Tolerance(), [True]),
        ([True], [False], Tolerance(atol=5), [True]),
        ([1], [1.0], EXACT, [False]),
    ],
)
def test_differ(a, b, tolerance, expected):
    """Floats agree within the tolerance, whole numbers within an absolute one of 1 or more, all else exactly."""
    assert differ(np.array(a), np.array(b), tolerance).tolist() == expected


def test_rows_and_outputs():
    """A row differs when any output does in it; an output says how many elements do, and shows the worst first."""
    tally = Tally(Tolerance())
    found = tally.add(
        4,
        answer(label=[0, 1, 1], score=[[0.1, 0.9], [0.2, 0.8], [0.3, 0.7]]),
        answer(label=[0, 1, 0], score=[[0.1, 0.9], [0.2, 0.9], [0.6, 0.1]]),
    )
    assert (found.rows, found.rows_differing) == (3, 2)
    label, score = found.outputs
    assert (label.name, label.what, label.elements) == ("label", "1 of 3 differ", ((2, 1, 0),))
    assert score.what == "3 of 6 differ, by 0.6 at most"
    assert [at for at, _, _ in score.elements] == [5, 4, 3]
    of_label, of_score = tally.report()
    assert set(of_label.confusion) == {("1", "1", 1), ("0", "0", 1), ("1", "0", 1)}
    assert of_score.confusion is None
    assert of_score.numeric.largest == pytest.approx(0.6)
    assert of_score.numeric.largest_line == 4
    assert sum(of_score.histogram) == 3


@pytest.mark.parametrize(
    ("a", "b", "what"),
    [
        (answer(x=[1.0]), answer(x=[1.0], y=[2]), "only B has it"),
        (answer(x=[1.0], y=[2]), answer(x=[1.0]), "only A has it"),
        (answer(x=[1.0]), answer(x=[1.0, 2.0]), "shape [1] and [2]"),
        (answer(x=["cat"]), answer(x=["dog"]), "differs"),
        (answer(x=["1"]), answer(x=[1]), "differs"),
    ],
)
def test_unlike_answers(a, b, what):
    """Outputs that one side lacks, other shapes and other values are differences that say what they are."""
    (found,) = Tally(Tolerance()).add(0, a, b).outputs
    assert found.what == what
    assert found.weight == math.inf


@given(st.lists(st.floats(1e-12, 1e6), min_size=1, max_size=200))
def test_quantiles_of_differences(values):
    """Quantiles of differences are those of the differences, to a bucket."""
    tally = Tally(Tolerance())
    tally.add(0, answer(x=np.zeros(len(values))), answer(x=np.array(values)))
    quantiles = tally.report()[0].numeric.quantiles
    for share in (50, 90, 99):
        true = float(np.quantile(values, share / 100, method="inverted_cdf"))
        assert true / 1.3 <= quantiles[f"p{share}"] <= true * 1.3
    assert len(EDGES) == 360


def test_many_classes_are_none():
    """An output with very many values is no class, and keeps no table of them."""
    tally = Tally(Tolerance())
    for line_ in range(3):
        tally.add(line_, answer(x=np.arange(500)), answer(x=np.arange(500)))
    assert tally.report()[0].confusion is None


@given(st.integers(0, 500), st.integers(1, 500))
def test_wilson(part, whole):
    """The interval of a share holds it, and lies between 0 and 1."""
    part = min(part, whole)
    low, high = wilson(part, whole)
    assert 0 <= low <= part / whole + 1e-12
    assert part / whole - 1e-12 <= high <= 1


def test_median_interval_covers():
    """The interval of a median holds the true one in about 19 of 20 samples of a skewed distribution."""
    drawn = np.random.default_rng(5).lognormal(0, 1, (400, 101))
    held = [low <= 1 <= high for _, low, high in (median_interval(row.tolist()) for row in drawn)]
    assert 0.92 <= np.mean(held) <= 0.99


# -- sides --


@pytest.mark.parametrize(
    ("text", "url", "path"),
    [
        ("iris", "http://here:1", "/v2/models/iris"),
        ("iris@2", "http://here:1", "/v2/models/iris/versions/2"),
        ("flow.pipeline", "http://here:1", "/v2/models/flow.pipeline"),
        ("http://there:2/v2/models/iris", "http://there:2", "/v2/models/iris"),
        ("http://there:2/v2/models/iris/versions/7/infer", "http://there:2", "/v2/models/iris/versions/7"),
        ("http://there:2/ns/a/v2/models/a%20b", "http://there:2/ns/a", "/v2/models/a%20b"),
    ],
)
def test_sides(text, url, path):
    """Names mean the given server; URLs their own, with what an ingress puts before."""
    side = side_of(text, url="http://here:1")
    assert (side.target.url, side.path) == (url, path)


@pytest.mark.parametrize(
    "text", ["", "@1", "iris@", "http://there", "http://there/v1/models/x", "http://t/v2/models/x?y"]
)
def test_sides_that_are_wrong(text):
    """What is neither a name nor the URL of a model is refused."""
    with pytest.raises(InvalidRequest):
        side_of(text, url="http://here:1")


# -- replays --


@pytest.fixture
def replay(server):
    """Compares models `a` and `b` of the scripted server on some lines."""

    def run(texts, **options):
        sides = side_of("a", url=server.url), side_of("b", url=server.url)
        return compare.run(texts, *sides, Options(**options))

    return run


def test_order_is_in_turn(replay, server):
    """Each request goes to both, one right after the other, and every second one to B first."""
    report = replay([line(at) for at in range(5)])
    assert "".join(asked.path.split("/")[3] for asked in server.asked) == "abbaabbaab"
    assert [asked.first for asked in server.asked] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert (report.requests, report.agreed, report.agreement) == (5, 5, 1.0)
    assert len(report.milliseconds_a) == len(report.milliseconds_b) == 5


def test_recorded_answers(server):
    """Against the answers in the log only the other side is asked; a line without an answer is a failure of the log."""
    sides = side_of("recorded", url=server.url), side_of("b", url=server.url)

    def exchange(value, answered):
        tensor = {"name": "x", "shape": [1, 1], "datatype": "FP64", "data": [answered]}
        return json.dumps({"request": json.loads(line(value)), "response": {"outputs": [tensor]}}).encode()

    texts = [
        exchange(1, 2.0),
        exchange(2, 4.0),
        exchange(3, 5.0),
        line(4),
        b'{"request": {"inputs": []}, "response": 3}',
    ]
    report = compare.run(texts, *sides, Options())
    assert [asked.path for asked in server.asked] == ["/v2/models/b/infer"] * 5
    assert (report.requests, report.compared, report.agreed, report.failed_a) == (5, 5, 2, 2)
    assert report.latency_a is None
    assert report.latency_b.p50 > 0
    assert report.ratio is None
    assert {each.message.partition(" is not")[0] for each in report.failures} == {
        "the line has no answer",
        "the recorded answer",
    }
    assert "<polyline" in compare_page.render(report)


def test_one_connection_each(replay, server):
    """Both sides keep one connection for the whole replay."""
    replay([line(at) for at in range(30)])
    assert server.connections == 2


def test_headers_and_limit(replay, server):
    """Headers go with every request, and no more than the limit is asked."""
    report = replay((line(at) for at in range(100)), limit=3, headers={"X-Key": "k"})
    assert report.requests == 3
    assert {asked.headers["X-Key"] for asked in server.asked} == {"k"}


def test_failures_by_side(replay, server):
    """Who fails, how often, why and where first is told apart; one side's failure is no agreement."""

    def script(asked):
        if asked.first == 1 and "/b/" in asked.path:
            return 500, {"error": "b cannot do 1"}
        if asked.first == 2:
            return 400, {"error": "nobody can do 2"}
        return None

    server.script = script
    report = replay([line(0), line(1), line(2), line(1)])
    assert (report.failed_a, report.failed_b, report.failed_both) == (0, 2, 1)
    assert (report.compared, report.agreed) == (3, 1)
    assert {(each.side, each.message, each.count, each.line) for each in report.failures} == {
        ("B", "500: b cannot do 1", 2, 1),
        ("A", "400: nobody can do 2", 1, 2),
        ("B", "400: nobody can do 2", 1, 2),
    }
    assert [(example.line, example.error_b) for example in report.examples] == [
        (1, "500: b cannot do 1"),
        (3, "500: b cannot do 1"),
    ]


def test_a_side_that_breaks_off(replay, server, drop):
    """A connection that breaks, or an answer that is none, is that side's failure, and the replay goes on."""
    broken = {1: drop, 2: (200, {"nonsense": 1}), 3: (200, {"outputs": [{"name": "x"}]})}
    server.script = lambda asked: broken.get(asked.first) if "/b/" in asked.path else None
    report = replay([line(at) for at in range(5)])
    assert (report.failed_a, report.agreed, report.requests) == (0, 2, 5)
    assert report.failed_b + len([each for each in report.examples if each.outputs]) == 3


def test_the_worst_examples_are_kept(replay, server):
    """Of many differences the greatest are kept, the worst first; of equals the earlier."""

    def script(asked):
        outputs = [{"name": "y", "shape": [1], "datatype": "FP64", "data": [asked.first if "/b/" in asked.path else 0]}]
        return 200, {"model_name": "m", "outputs": outputs}

    server.script = script
    report = replay([line(at) for at in (3, 9, 9, 1, 4, 0)], examples=3)
    assert [example.line for example in report.examples] == [1, 2, 4]
    assert replay([line(5)], examples=0).examples == ()


def test_not_there(replay, server, unreachable):
    """A model or a server that is not there is said before anything is asked."""
    server.ready = lambda: 404
    with pytest.raises(ModelNotFound, match=r"^a: "):
        replay([line(1)])
    server.ready = lambda: 503
    with pytest.raises(ModelNotReady):
        replay([line(1)])
    assert server.asked == []
    side = side_of("a", url=unreachable)
    with pytest.raises(NotConnected):
        compare.run([line(1)], side, side, Options(concurrency=3))


@pytest.fixture
def unreachable():
    """An address at which nobody listens."""
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_a_page_of_nothing(replay):
    """The page of a replay in which nothing was asked is whole too."""
    text = compare_page.render(replay([b"nonsense"]))
    assert "nothing compared" in text
    assert "line 0: expected a request" in text
    assert text.endswith("</body></html>\n")


@pytest.mark.parametrize("difference", [0.0, 1e-30, 1e30, 5.0])
def test_a_page_of_any_difference(replay, server, difference):
    """The page draws differences of any size, and text from answers cannot break out of it."""

    def script(asked):
        value = difference if "/b/" in asked.path else 0.0
        outputs = [
            {"name": "<script>y", "shape": [1], "datatype": "FP64", "data": [value]},
            {"name": "z", "shape": [1], "datatype": "BYTES", "data": ["</td><script>"]},
        ]
        return 200, {"model_name": "m", "outputs": outputs}

    server.script = script
    text = compare_page.render(replay([line(1)], tolerance=EXACT))
    assert "<script>" not in text
    assert "&lt;script&gt;y" in text
    assert "nan" not in text
