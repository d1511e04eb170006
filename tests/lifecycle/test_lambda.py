"""The function of AWS Lambda, called with events as AWS writes them against a store that checks signatures, and allowed
only what the printed policy allows.
"""

import contextlib
import http.client
import http.server
import io
import json
import shutil
import threading
from collections import Counter
from fnmatch import fnmatchcase
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headrace import offline
from headrace.artifacts.settings import ArtifactSettings
from headrace.errors import ArtifactDenied, HeadraceError, InvalidRequest, SettingsError
from headrace.lifecycle import policy as policy_
from headrace.lifecycle.aws_lambda import Function, Handler
from headrace.lifecycle.batch.base import Job
from headrace.lifecycle.policy import policy
from headrace.lifecycle.watch import answers
from headrace.lifecycle.watch.ledger import Ledger
from headrace.lifecycle.watch.watch import Options, Watch

CSV = b"a,b\n1,2\n3,4\n"


class Buckets:
    """Three buckets, a function over them, and what it opened."""

    def __init__(self, s3, tmp_path, model):
        self.client = s3.client()
        self.source, self.target, self.model = s3.bucket(), s3.bucket(), s3.bucket()
        self.client.put_object(Bucket=self.model, Key="sum/model.onnx", Body=model.read_bytes())
        self.settings = ArtifactSettings(cache_dir=str(tmp_path / "cache"), retries=0)
        self.opened = 0
        self.uris = {
            "inputs": (f"s3://{self.source}/in/",),
            "output": f"s3://{self.target}/out",
            "model": f"s3://{self.model}/sum",
        }

    def handler(self, **more):
        job = Job(model=self.uris["model"], inputs=(), output=self.uris["output"])
        return Handler(
            Function(job=job, inputs=self.uris["inputs"], **more), open_predictor=self.open, settings=self.settings
        )

    def open(self, job):
        self.opened += 1
        return offline.open_model(
            job.model, settings={"artifacts.cache_dir": self.settings.cache_dir, "models.optimize": "off"}
        )

    def put(self, key, body=CSV):
        self.client.put_object(Bucket=self.source, Key=key, Body=body)

    def event(self, *keys, name="ObjectCreated:Put"):
        """As S3 calls a function: the document of AWS's guide, with these keys as S3 encodes them."""
        return {
            "Records": [
                {
                    "eventVersion": "2.1",
                    "eventSource": "aws:s3",
                    "awsRegion": "us-east-2",
                    "eventTime": "2026-09-03T19:37:27.192Z",
                    "eventName": name,
                    "userIdentity": {"principalId": "AWS:AIDAINPONIXQXHT3IKHL2"},
                    "requestParameters": {"sourceIPAddress": "205.255.255.255"},
                    "responseElements": {"x-amz-request-id": "D82B88E5F771F645", "x-amz-id-2": "vlR7PnpV2Ce81l0PR"},
                    "s3": {
                        "s3SchemaVersion": "1.0",
                        "configurationId": "828aa6fc-f7b5-4305-8584-487c791949c1",
                        "bucket": {
                            "name": self.source,
                            "ownerIdentity": {"principalId": "A3I5XTEXAMAI3E"},
                            "arn": f"arn:aws:s3:::{self.source}",
                        },
                        "object": {"key": key, "size": len(CSV), "eTag": "b21b84d653bb07b05b1e6b33684dc11b"},
                    },
                }
                for key in keys
            ]
        }

    def queue_event(self, *bodies):
        """As a queue calls a function."""
        return {
            "Records": [
                {
                    "messageId": f"m{at}",
                    "receiptHandle": "AQEBwJnKyrHigUMZj6rYigCgxlaS3SLy0a",
                    "body": body if isinstance(body, str) else json.dumps(body),
                    "attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": "1545082649183"},
                    "messageAttributes": {},
                    "md5OfBody": "098f6bcd4621d373cade4e832627b4f6",
                    "eventSource": "aws:sqs",
                    "eventSourceARN": "arn:aws:sqs:us-east-2:123456789012:my-queue",
                    "awsRegion": "us-east-2",
                }
                for at, body in enumerate(bodies)
            ]
        }

    def written(self):
        listed = self.client.list_objects_v2(Bucket=self.target).get("Contents", [])
        return sorted(each["Key"] for each in listed if each["Size"])

    def read(self, key):
        return self.client.get_object(Bucket=self.target, Key=key)["Body"].read()


@pytest.fixture
def buckets(s3, tmp_path, sum_model):
    return Buckets(s3, tmp_path, sum_model)


def test_event(buckets):
    """An event of S3 makes one output object of each object, and the model is loaded once for all calls."""
    buckets.put("in/a b+c.csv")
    buckets.put("in/d.csv", b"a,b\n5,6\n")
    handler = buckets.handler()
    result = handler(buckets.event("in/a+b%2Bc.csv"), None)
    assert [each["state"] for each in result["objects"]] == ["done"]
    assert result["objects"][0]["outcome"]["answered"] == 2
    handler(buckets.event("in/d.csv"))
    assert buckets.written() == [
        "out/a b+c.csv",
        "out/a b+c.csv.manifest.json",
        "out/d.csv",
        "out/d.csv.manifest.json",
    ]
    assert buckets.read("out/a b+c.csv").split() == [b'"row","y"', b"0,3", b"1,7"]
    assert buckets.opened == 1
    json.dumps(result)


def test_twice(buckets):
    """An event that comes twice finds the output, and leaves it as it is; a new version of the object is answered."""
    buckets.put("in/a.csv")
    handler = buckets.handler()
    handler(buckets.event("in/a.csv"))
    before = buckets.client.head_object(Bucket=buckets.target, Key="out/a.csv")
    again = buckets.handler()(buckets.event("in/a.csv"))
    assert again["objects"][0]["outcome"]["finished_before"] == 1
    after = buckets.client.head_object(Bucket=buckets.target, Key="out/a.csv")
    assert after["LastModified"] == before["LastModified"]
    buckets.put("in/a.csv", b"a,b\n9,9\n")
    handler(buckets.event("in/a.csv"))
    assert buckets.read("out/a.csv").split()[1:] == [b"0,18"]


def test_killed_at_its_end(buckets):
    """An output without a manifest is what a call left that was ended in between: the next call completes it."""
    buckets.put("in/a.csv")
    buckets.client.put_object(Bucket=buckets.target, Key="out/a.csv", Body=b"whatever")
    buckets.handler()(buckets.event("in/a.csv"))
    assert buckets.read("out/a.csv").split()[1:] == [b"0,3", b"1,7"]


def test_other_events(buckets):
    """Deletions, objects that are gone, objects elsewhere and what is no data are no failures, and make nothing."""
    handler = buckets.handler()
    assert handler({"Event": "s3:TestEvent", "Bucket": buckets.source}) == {"objects": []}
    assert handler(buckets.event("in/a.csv", name="ObjectRemoved:Delete")) == {"objects": []}
    told = handler(buckets.event("in/absent.csv", "other/a.csv", "in/notes.txt"))["objects"]
    assert [each["state"] for each in told] == ["gone", "ignored", "ignored"]
    assert buckets.written() == []
    assert buckets.opened == 0


def test_event_bridge(buckets):
    """An event of EventBridge is as good."""
    buckets.put("in/a b.csv")
    event = {
        "version": "0",
        "id": "17793124-05d4-b198-2fde-7ededc63b103",
        "detail-type": "Object Created",
        "source": "aws.s3",
        "detail": {"bucket": {"name": buckets.source}, "object": {"key": "in/a b.csv", "size": 5, "etag": "b1"}},
    }
    assert buckets.handler()(event)["objects"][0]["state"] == "done"


def test_queue(buckets):
    """Of a batch of messages, those that fail are named, to come again; the others are done and do not."""
    buckets.put("in/a.csv")
    buckets.put("in/bad.csv", b"q\n1\n")
    buckets.put("in/c.csv")
    sns = {"Type": "Notification", "Message": json.dumps(buckets.event("in/c.csv"))}
    test = {"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": buckets.source}
    result = buckets.handler()(
        buckets.queue_event(buckets.event("in/a.csv"), buckets.event("in/bad.csv"), "nonsense", sns, test), None
    )
    assert result == {"batchItemFailures": [{"itemIdentifier": "m1"}, {"itemIdentifier": "m2"}]}
    assert [key for key in buckets.written() if key.endswith(".csv")] == ["out/a.csv", "out/c.csv"]


def test_direct_failure(buckets):
    """Without a queue, what cannot be answered is raised, so that Lambda tries again and tells its destination."""
    buckets.put("in/bad.csv", b"q\n1\n")
    with pytest.raises(InvalidRequest, match=r"bad\.csv"):
        buckets.handler()(buckets.event("in/bad.csv"))
    with pytest.raises(InvalidRequest, match="expected an event"):
        buckets.handler()({"hello": 1})


def test_no_time(buckets):
    """An object that is too large for the call's time is stopped while there is time to say what to do."""

    class Context:
        def get_remaining_time_in_millis(self):
            return 0

    buckets.put("in/a.csv", b"a,b\n" + b"1,2\n" * 200_000)
    with pytest.raises(SettingsError, match="batch watch"):
        buckets.handler()(buckets.event("in/a.csv"), Context())
    assert not [key for key in buckets.written() if key.endswith(".csv")]


def test_without_inputs(buckets):
    """A function that was told no input answers whatever it is called for, but not its own output."""
    buckets.put("anywhere/a.csv")
    job = Job(model=buckets.uris["model"], inputs=(), output=f"s3://{buckets.source}/out/")
    handler = Handler(Function(job=job), open_predictor=buckets.open, settings=buckets.settings)
    assert handler(buckets.event("anywhere/a.csv"))["objects"][0]["output"].endswith("out/anywhere/a.csv")
    with pytest.raises(SettingsError, match="without end"):
        handler(buckets.event("out/anywhere/a.csv"))


def test_output_within_input():
    """A function that would call itself is refused when it is made."""
    function = Function(job=Job(model="m", inputs=(), output="s3://b/in/out"), inputs=("s3://b/in/",))
    with pytest.raises(SettingsError, match="without end"):
        Handler(function, open_predictor=lambda _: None)


# -- the policy --


class Guard(http.server.BaseHTTPRequestHandler):
    """A proxy in front of the store that allows what a policy allows, as IAM does, and counts what was needed.

    What is absent looks denied to whoever may not list the bucket; a condition on `s3:prefix` does not help, since only
    requests that list have that key.
    """

    protocol_version = "HTTP/1.1"

    def handle_any(self):
        server = self.server
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        parts = urlsplit(self.path)
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        action, resource = self.asked(bucket, key, query)
        if not server.allowed(action, resource, query):
            server.denied.append((action, resource))
            self.reply(403, {}, b"<Error><Code>AccessDenied</Code></Error>")
            return
        upstream = http.client.HTTPConnection(server.upstream, timeout=30)
        upstream.request(self.command, self.path, body=body, headers=dict(self.headers.items()))
        answer = upstream.getresponse()
        data = answer.read()
        upstream.close()
        if answer.status == 404 and not server.allowed("s3:ListBucket", f"arn:aws:s3:::{bucket}", {}):
            self.reply(403, {}, b"<Error><Code>AccessDenied</Code></Error>")
            return
        kept = {
            name: value
            for name, value in answer.getheaders()
            if name.lower() not in {"transfer-encoding", "connection", "content-length"}
        }
        length = answer.getheader("content-length") if self.command == "HEAD" else None
        self.reply(answer.status, kept, data, length)

    def do_GET(self):
        self.handle_any()

    def do_HEAD(self):
        self.handle_any()

    def do_PUT(self):
        self.handle_any()

    def do_POST(self):
        self.handle_any()

    def do_DELETE(self):
        self.handle_any()

    def asked(self, bucket, key, query):
        of_object, of_bucket = f"arn:aws:s3:::{bucket}/{key}", f"arn:aws:s3:::{bucket}"
        if not key:
            return "s3:ListBucket" if self.command == "GET" else f"?{self.command}", of_bucket
        if self.command in {"GET", "HEAD"}:
            return "s3:GetObject", of_object
        if self.command == "DELETE":
            return ("s3:AbortMultipartUpload" if "uploadId" in query else "s3:DeleteObject"), of_object
        return "s3:PutObject", of_object

    def reply(self, status, headers, body, length=None):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", length or str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


class GuardServer(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def allow(self, document):
        """Hold to a policy from now on, and forget what was asked."""
        self.document, self.used, self.denied = document, Counter(), []

    def allowed(self, action, resource, query):
        for statement in self.document["Statement"]:
            resources = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
            if action not in statement["Action"] or not any(fnmatchcase(resource, each) for each in resources):
                continue
            wanted = statement.get("Condition", {}).get("StringLike", {}).get("s3:prefix")
            if wanted is not None and not any(fnmatchcase(query.get("prefix", "\0"), each) for each in wanted):
                continue
            if query or action != "s3:ListBucket":
                self.used[statement["Sid"], action] += 1
            return True
        return False


@pytest.fixture
def guard(s3, monkeypatch):
    """The proxy; clients made from the environment go through it."""
    with GuardServer(("127.0.0.1", 0), Guard) as server:
        server.upstream = s3.endpoint.removeprefix("http://")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        yield server
        server.shutdown()
        thread.join()


def parquet(rows, *, broken=False):
    """Two columns of noise, so that answers do not shrink; with `broken`, the second row group is damaged."""
    noise = np.random.default_rng(7).random((2, rows), np.float32)
    out = io.BytesIO()
    with pq.ParquetWriter(out, pa.schema({"a": pa.float32(), "b": pa.float32()}), compression="none") as writer:
        for _ in range(2):
            writer.write_table(pa.table({"a": noise[0], "b": noise[1]}), row_group_size=rows)
        ends = [out.tell()]
    data = bytearray(out.getvalue())
    if broken:
        middle = len(data) // 2
        data[middle + 64 : ends[0] - 4096] = b"\xff" * (ends[0] - 4096 - middle - 64)
    return bytes(data)


def test_least(buckets, guard):
    """What the policy allows is enough for the function, and each of its actions is needed: without any one of them
    something fails that did not.
    """
    document = policy(**buckets.uris)
    buckets.put("in/small0.csv")
    guard.allow(document)
    assert exercise_small(buckets, 0) is None
    named = {(statement["Sid"], action) for statement in document["Statement"] for action in statement["Action"]}
    assert {action for action, count in guard.used.items() if count} == named
    at = 0
    for statement in document["Statement"]:
        for action in statement["Action"]:
            at += 1
            buckets.put(f"in/small{at}.csv")
            guard.allow(without(document, statement["Sid"], action))
            failed = exercise_small(buckets, at)
            if (statement["Sid"], action) in {
                ("WriteOutput", "s3:GetObject"),  # what stands is not seen: it is done again for each further event
                ("WriteOutput", "s3:AbortMultipartUpload"),  # uploads that were begun and not ended are to be paid for
            }:
                assert guard.denied
            else:
                assert isinstance(failed, ArtifactDenied), (statement["Sid"], action, failed)


def exercise_small(buckets, at):
    """A new environment of the function, with nothing cached, and one object; how it failed."""
    shutil.rmtree(buckets.settings.cache_dir, ignore_errors=True)
    try:
        buckets.handler()(buckets.event(f"in/small{at}.csv"))
    except HeadraceError as exc:
        return exc
    return None


def without(document, name, action):
    """The policy with one action less."""
    statements = [
        {**each, "Action": [one for one in each["Action"] if (each["Sid"], one) != (name, action)]}
        for each in document["Statement"]
    ]
    return {**document, "Statement": statements}


def test_abort_is_needed(buckets, guard):
    """An upload in parts that fails is aborted, which the policy allows, so that nothing is left to be paid for."""
    buckets.put("in/broken.parquet", parquet(3_000_000, broken=True))
    guard.allow(policy(**buckets.uris))
    with pytest.raises(HeadraceError):
        buckets.handler()(buckets.event("in/broken.parquet"))
    assert guard.used["WriteOutput", "s3:AbortMultipartUpload"] == 2  # and the one that shows that it may be written
    assert guard.denied == []
    assert not buckets.client.list_multipart_uploads(Bucket=buckets.target).get("Uploads")


def test_absent_looks_denied(buckets, guard):
    """By the least policy an object that is gone looks refused: it is told as such, and not as done."""
    guard.allow(policy(**buckets.uris))
    with pytest.raises(ArtifactDenied):
        buckets.handler()(buckets.event("in/absent.csv"))


def test_least_of_a_watcher(buckets, guard, tmp_path):
    """What the policy allows a watcher is enough for it, and without the listing of its inputs it says so at once."""
    buckets.put("in/a.csv")
    job = Job(model=buckets.uris["model"], inputs=(), output=buckets.uris["output"])
    document = policy(**buckets.uris, kind="watch")
    guard.allow(document)
    predictor = buckets.open(job)
    options = Options(inputs=buckets.uris["inputs"], output=buckets.uris["output"])
    with Ledger(tmp_path / "l.db") as ledger, contextlib.closing(predictor):

        def watcher():
            return Watch(
                options,
                ledger=ledger,
                answer=lambda info, output, cancel: answers.answer(
                    job, info, output, predictor, settings=buckets.settings, state=tmp_path / "work", cancel=cancel
                ),
                job=answers.digest(job, predictor),
                settings=buckets.settings,
            )

        assert watcher().run(once=True).done == 1
        assert guard.denied == []
        assert guard.used["ListInput", "s3:ListBucket"]
        guard.allow(without(document, "ListInput", "s3:ListBucket"))
        with pytest.raises(ArtifactDenied):
            watcher().run(once=True)


def test_policy_document():
    """The policy names prefixes, conditions and keys as IAM wants them, and a watcher may list its inputs."""
    key = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd"
    found = policy(
        inputs=["s3://in/2026/*.csv"],
        output="s3://out/answers/",
        model="s3://models/churn.onnx",
        queue="arn:aws:sqs:eu-west-1:123456789012:q",
        kms=[f"in={key}", f"out={key}2"],
        kind="watch",
    )
    by_name = {each.pop("Sid"): each for each in found["Statement"]}
    assert by_name["ReadInput"] == {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": "arn:aws:s3:::in/2026/*"}
    assert by_name["ListInput"]["Condition"] == {"StringLike": {"s3:prefix": ["2026/*"]}}
    assert by_name["WriteOutput"]["Resource"] == "arn:aws:s3:::out/answers/*"
    assert by_name["ReadModel"]["Resource"] == ["arn:aws:s3:::models/churn.onnx", "arn:aws:s3:::models/churn.onnx/*"]
    assert by_name["ReadQueue"]["Action"] == ["sqs:ReceiveMessage", "sqs:DeleteMessage"]
    assert by_name["Decrypt"]["Resource"] == [key, f"{key}2"]
    assert by_name["Encrypt"] == {"Effect": "Allow", "Action": ["kms:GenerateDataKey"], "Resource": [f"{key}2"]}
    assert "ListInput" not in {each["Sid"] for each in policy(inputs=["s3://in/"], output="s3://out/")["Statement"]}


@pytest.mark.parametrize(
    "given",
    [
        {"inputs": ["gs://in/"], "output": "s3://out/"},
        {"inputs": ["s3://in/"], "output": "out"},
        {"inputs": [], "output": "s3://out/"},
        {"inputs": ["s3://in/"], "output": "s3://out/", "queue": "https://sqs"},
        {"inputs": ["s3://in/"], "output": "s3://out/", "kms": ["elsewhere=arn:aws:kms:eu-west-1:123456789012:key/1"]},
        {"inputs": ["s3://in/"], "output": "s3://out/", "kms": ["key"]},
    ],
)
def test_policy_refused(given):
    """What is no uri of S3, or no ARN, is refused with what was expected."""
    with pytest.raises(SettingsError, match=r"expected|needs"):
        policy_.policy(**given)
