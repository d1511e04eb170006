"""Queues: signatures as AWS's own library makes them, and what a bucket tells a queue, read and deleted."""

import datetime as dt
import http.server
import json
import logging
import threading

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from headrace.artifacts.secrets import Secret
from headrace.artifacts.settings import ArtifactSettings
from headrace.errors import ArtifactDenied, ArtifactFailed, ArtifactNotFound, ArtifactUnreachable, SettingsError
from headrace.lifecycle.batch.base import Outcome
from headrace.lifecycle.watch import sigv4
from headrace.lifecycle.watch.ledger import Ledger
from headrace.lifecycle.watch.sigv4 import Keys
from headrace.lifecycle.watch.sources import SqsSource, open_queue
from headrace.lifecycle.watch.sqs import Queue
from headrace.lifecycle.watch.watch import Options, Watch
from headrace.testing.brokers import free_port

NOW = dt.datetime(2015, 8, 30, 12, 36, 0, tzinfo=dt.UTC)
EXAMPLE = Keys(access_key=Secret("AKIDEXAMPLE"), secret_key=Secret("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"))


def test_vector():
    """The signature of AWS's published test `get-vanilla` is the published one."""
    sent = sigv4.signed(
        "GET", "https://example.amazonaws.com/", b"", {}, region="us-east-1", service="service", keys=EXAMPLE, now=NOW
    )
    assert sent["Authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
        "SignedHeaders=host;x-amz-date, Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
    )


@given(
    body=st.binary(max_size=50),
    token=st.sampled_from(["", "session/token+="]),
    path=st.sampled_from(["/", "/1234/queue", "/a%20b"]),
    query=st.sampled_from(["", "?b=2&a=1", "?x=a%20b&x="]),
)
def test_as_botocore(body, token, path, query):
    """Requests are signed as AWS's own library signs them, with keys of a session and without."""
    keys = Keys(access_key=Secret("AKID"), secret_key=Secret("secret"), token=Secret(token))
    url = f"https://sqs.eu-west-1.amazonaws.com{path}{query}"
    headers = {"Content-Type": "application/x-amz-json-1.0", "X-Amz-Target": "AmazonSQS.ReceiveMessage"}
    ours = sigv4.signed("POST", url, body, headers, region="eu-west-1", service="sqs", keys=keys, now=NOW)
    theirs = AWSRequest("POST", url, data=body, headers=headers | {"X-Amz-Date": ours["X-Amz-Date"]})
    theirs.context["timestamp"] = ours["X-Amz-Date"]
    if token:
        theirs.headers["X-Amz-Security-Token"] = token
    auth = SigV4Auth(Credentials("AKID", "secret", token or None), "sqs", "eu-west-1")
    signature = auth.signature(auth.string_to_sign(theirs, auth.canonical_request(theirs)), theirs)
    assert ours["Authorization"].endswith(f"Signature={signature}")


@pytest.mark.parametrize(
    ("url", "region"),
    [
        ("https://sqs.eu-west-1.amazonaws.com/123456789012/q", "eu-west-1"),
        ("https://sqs.cn-north-1.amazonaws.com.cn/123456789012/q", "cn-north-1"),
        ("https://sqs-fips.us-gov-west-1.amazonaws.com/1/q", "us-gov-west-1"),
        ("https://us-east-2.queue.amazonaws.com/1/q", "us-east-2"),
        ("http://127.0.0.1:5000/1/q", "us-east-9"),
    ],
)
def test_region(url, region):
    """A queue's region is what its url says, and otherwise what is set."""
    assert Queue(url, keys=lambda: EXAMPLE, region="us-east-9").region == region


@pytest.mark.parametrize("url", ["q", "https://sqs.eu-west-1.amazonaws.com/", "s3://b/q"])
def test_no_queue(url):
    """What is no url of a queue is refused, with what one looks like."""
    with pytest.raises(SettingsError, match="expected the url of a queue"):
        Queue(url, keys=lambda: EXAMPLE, region="us-east-1")


@pytest.fixture
def told(aws):
    """A bucket that tells a queue of what comes into `in/`: its name, the queue's url, a client."""
    import boto3

    session = boto3.Session()  # the default one would keep these credentials for whoever asks in this process later
    s3, sqs = session.client("s3", endpoint_url=aws), session.client("sqs", endpoint_url=aws)
    bucket = f"b-{dt.datetime.now(dt.UTC).timestamp():.6f}".replace(".", "-")
    s3.create_bucket(Bucket=bucket)
    url = sqs.create_queue(QueueName=bucket)["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    rule = {"Key": {"FilterRules": [{"Name": "prefix", "Value": "in/"}]}}
    configuration = {"QueueArn": arn, "Events": ["s3:ObjectCreated:*"], "Filter": rule}
    s3.put_bucket_notification_configuration(
        Bucket=bucket, NotificationConfiguration={"QueueConfigurations": [configuration]}
    )
    return bucket, url, s3, sqs


def copied(info, output, cancel):
    return Outcome(rows=1, answered=1)


def test_queue(told, tmp_path):
    """What a bucket tells its queue is heeded, each object once, and what is in the ledger is deleted from the queue."""
    bucket, url, s3, sqs = told
    names = ["in/a b+c.csv", "in/ü.csv", "in/c.csv"]
    for name in [*names, "other/d.csv"]:
        s3.put_object(Bucket=bucket, Key=name, Body=name.encode())
    s3.put_object(Bucket=bucket, Key=names[0], Body=names[0].encode())
    sqs.send_message(QueueUrl=url, MessageBody="nonsense")
    queue = open_queue(url, ArtifactSettings())
    given = Options(inputs=(f"s3://{bucket}/in/",), output=f"s3://{bucket}/out/", poll_seconds=0)
    with Ledger(tmp_path / "l.db") as ledger:
        watch = Watch(given, ledger=ledger, answer=copied, job="job", sources=[SqsSource(queue)])
        assert watch.run(once=True).done == 3
        assert sorted(row.key for row in ledger.rows("done")) == sorted(names)
        assert {row.source for row in ledger.rows()} == {"sqs"}
        assert [letter.text for letter in ledger.letters()] == ["nonsense"]
    left = sqs.get_queue_attributes(
        QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    )
    assert set(left["Attributes"].values()) == {"0"}


def test_not_kept_is_not_deleted(told, tmp_path):
    """A message that the ledger could not keep stays in the queue."""
    bucket, url, s3, _ = told
    s3.put_object(Bucket=bucket, Key="in/a.csv", Body=b"a")
    given = Options(inputs=(f"s3://{bucket}/in/",), output=f"s3://{bucket}/out/", poll_seconds=0)
    ledger = Ledger(tmp_path / "l.db")
    watch = Watch(given, ledger=ledger, answer=copied, job="job")
    source = SqsSource(open_queue(url, ArtifactSettings()))
    with pytest.raises(Exception, match="closed"):
        source.read(watch.offer, threading.Event(), once=True)
    attributes = told[3].get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    assert int(attributes["ApproximateNumberOfMessages"]) + int(attributes["ApproximateNumberOfMessagesNotVisible"]) > 0


def test_absent_queue(aws):
    """A queue that is not there is told as such, by its url."""
    queue = open_queue(f"{aws}/123456789012/absent", ArtifactSettings())
    with pytest.raises(ArtifactNotFound, match="absent"):
        queue.receive(wait_seconds=0)


def test_no_keys(monkeypatch, tmp_path):
    """Without any credentials the error names what to set."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(ArtifactDenied, match="AWS_ACCESS_KEY_ID"):
        open_queue("https://sqs.eu-west-1.amazonaws.com/1/q", ArtifactSettings())


class Refusing(http.server.BaseHTTPRequestHandler):
    """Answers as was set on the server."""

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        status, body = self.server.answer
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(
    ("status", "kind", "error"),
    [
        (403, "com.amazon.coral.service#AccessDeniedException", ArtifactDenied),
        (400, "com.amazonaws.sqs#QueueDoesNotExist", ArtifactNotFound),
        (400, "com.amazon.coral.service#ThrottlingException", ArtifactUnreachable),
        (503, "com.amazonaws.sqs#ServiceUnavailable", ArtifactUnreachable),
        (400, "com.amazonaws.sqs#UnsupportedOperation", ArtifactFailed),
        (200, None, ArtifactFailed),
    ],
)
def test_refused(status, kind, error, caplog):
    """Each refusal is its own cause, and no key or signature is in what is said."""
    body = json.dumps({"__type": kind, "message": "sign this: supersecretkey"}).encode() if kind else b"<html>"
    caplog.set_level(logging.DEBUG)
    with http.server.HTTPServer(("127.0.0.1", 0), Refusing) as server:
        server.answer = (status, body)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            keys = Keys(access_key=Secret("AKID"), secret_key=Secret("supersecretkey"), token=Secret("sessiontoken"))
            queue = Queue(f"http://127.0.0.1:{server.server_port}/1/q", keys=lambda: keys, region="us-east-1")
            with pytest.raises(error) as caught:
                queue.receive(wait_seconds=0)
        finally:
            server.shutdown()
            thread.join()
    said = f"{caught.value!r} {caught.value} {caught.value.__cause__!r} {caplog.text} {queue!r} {keys!r}"
    assert type(caught.value) is error
    assert not any(secret in said for secret in ("supersecretkey", "sessiontoken", "AKID", "Signature"))


def test_away():
    """A queue that cannot be reached may be reached later."""
    queue = Queue(f"http://127.0.0.1:{free_port()}/1/q", keys=lambda: EXAMPLE, region="us-east-1")
    with pytest.raises(ArtifactUnreachable):
        queue.receive(wait_seconds=0)
