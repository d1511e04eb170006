"""What stores say of new objects, as they say it: documents of AWS, moto, MinIO, SeaweedFS, Google and Azure."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.lifecycle.watch import events
from headrace.lifecycle.watch.events import ObjectCreated

# AWS, "Event message structure" of the user guide, with its own values; the key as S3 encodes it.
S3 = {
    "Records": [
        {
            "eventVersion": "2.1",
            "eventSource": "aws:s3",
            "awsRegion": "us-west-2",
            "eventTime": "1970-01-01T00:00:00.000Z",
            "eventName": "ObjectCreated:Put",
            "userIdentity": {"principalId": "AIDAJDPLRKLG7UEXAMPLE"},
            "requestParameters": {"sourceIPAddress": "127.0.0.1"},
            "responseElements": {
                "x-amz-request-id": "C3D13FE58DE4C810",
                "x-amz-id-2": "FMyUVURIY8/IgAtTv8xRjskZQpcIZ9KG4V5Wp6S7S/JRWeUWerMUE5JgHvANOjpD",
            },
            "s3": {
                "s3SchemaVersion": "1.0",
                "configurationId": "testConfigRule",
                "bucket": {
                    "name": "amzn-s3-demo-bucket",
                    "ownerIdentity": {"principalId": "A3NL1KOZZKExample"},
                    "arn": "arn:aws:s3:::amzn-s3-demo-bucket",
                },
                "object": {
                    "key": "2026/Happy+Face+100%25%2B%C3%BC.csv",
                    "size": 1024,
                    "eTag": "d41d8cd98f00b204e9800998ecf8427e",
                    "versionId": "096fKKXTRTtl3on89fVO.nfljtsv6qko",
                    "sequencer": "0055AED6DCD90281E5",
                },
            },
        }
    ]
}
HAPPY = ObjectCreated(
    bucket="s3://amzn-s3-demo-bucket",
    key="2026/Happy Face 100%+ü.csv",
    size=1024,
    etag="d41d8cd98f00b204e9800998ecf8427e",
    version_id="096fKKXTRTtl3on89fVO.nfljtsv6qko",
    event_id="C3D13FE58DE4C810",
)
SNS = {
    "Type": "Notification",
    "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
    "TopicArn": "arn:aws:sns:us-west-2:123456789012:MyTopic",
    "Subject": "Amazon S3 Notification",
    "Message": json.dumps(S3),
    "Timestamp": "2012-05-02T00:54:06.655Z",
    "SignatureVersion": "1",
    "Signature": "EXAMPLEw6JRN",
}
LAMBDA_SQS = {
    "Records": [
        {
            "messageId": "059f36b4-87a3-44ab-83d2-661975830a7d",
            "receiptHandle": "AQEBwJnKyrHigUMZj6rYigCgxlaS3SLy0a",
            "body": json.dumps(S3),
            "attributes": {"ApproximateReceiveCount": "1"},
            "eventSource": "aws:sqs",
            "eventSourceARN": "arn:aws:sqs:us-east-2:123456789012:my-queue",
            "awsRegion": "us-east-2",
        }
    ]
}
LAMBDA_SNS = {"Records": [{"EventVersion": "1.0", "EventSource": "aws:sns", "Sns": SNS}]}
EVENT_BRIDGE = {
    "version": "0",
    "id": "17793124-05d4-b198-2fde-7ededc63b103",
    "detail-type": "Object Created",
    "source": "aws.s3",
    "account": "111122223333",
    "time": "1970-01-01T00:01:00Z",
    "region": "ca-central-1",
    "resources": ["arn:aws:s3:::amzn-s3-demo-bucket1"],
    "detail": {
        "version": "0",
        "bucket": {"name": "amzn-s3-demo-bucket1"},
        "object": {
            "key": "a b+c.csv",
            "size": 5,
            "etag": "b1946ac92492d2347c6235b4d2611184",
            "version-id": "IYV3p45BT0ac8hjHg1houSdS1a.Mro8e",
            "sequencer": "617f08299329d189",
        },
        "request-id": "N4N7GDK58NMKJ12R",
        "reason": "PutObject",
    },
}
# As SeaweedFS 4.48's webhook sent it.
SEAWEEDFS = {
    "event_type": "create",
    "key": "/buckets/inb/a b/ü+1%.csv",
    "message": {
        "new_entry": {
            "name": "ü+1%.csv",
            "chunks": [{"size": 8, "e_tag": "NE/SMj3TPVwFi3zyfeAp6A=="}],
            "attributes": {"file_size": 8, "mtime": 1795279563, "md5": "NE/SMj3TPVwFi3zyfeAp6A=="},
            "extended": {"Seaweed-X-Amz-ETag": "MzQ0ZmQyMzIzZGQzM2Q1YzA1OGI3Y2YyN2RlMDI5ZTg="},
        },
        "delete_chunks": True,
        "new_parent_path": "/buckets/inb/a b",
        "signatures": [1992394767],
    },
}
MINIO = {"EventName": "s3:ObjectCreated:Put", "Key": "images/a%20b.csv"} | json.loads(
    json.dumps(S3).replace("ObjectCreated:Put", "s3:ObjectCreated:Put")
)
GOOGLE = {
    "specversion": "1.0",
    "id": "3103425958877813",
    "type": "google.cloud.storage.object.v1.finalized",
    "source": "//storage.googleapis.com/projects/_/buckets/some-bucket",
    "time": "1970-01-01T00:00:05Z",
    "datacontenttype": "application/json",
    "data": {
        "bucket": "some-bucket",
        "name": "folder/a b.csv",
        "size": "352",
        "etag": "CNu",
        "generation": "1587627537",
    },
}
AZURE = {
    "specversion": "1.0",
    "id": "9aeb0fdf-c01e-0131-0922-9eb54906e209",
    "type": "Microsoft.Storage.BlobCreated",
    "source": "/subscriptions/x/providers/Microsoft.Storage/storageAccounts/my-storage-account",
    "time": "1970-01-01T00:00:05Z",
    "data": {
        "api": "PutBlockList",
        "eTag": '"0x8D76C39E4407333"',
        "contentLength": 447,
        "blobType": "BlockBlob",
        "url": "https://account.blob.core.windows.net/testcontainer/dir/a%20b.csv",
    },
}
AZURE_GRID = {
    "topic": "/subscriptions/x",
    "eventType": "Microsoft.Storage.BlobCreated",
    "eventTime": "1970-01-01T00:00:05Z",
    "id": "831e1650-001e-001b-66ab-eeb76e069631",
    "data": AZURE["data"],
}
KNATIVE = {
    "specversion": "1.0",
    "id": "C3D13FE58DE4C810",
    "type": "com.amazonaws.s3.ObjectCreated:Put",
    "source": "aws:s3.us-west-2.amzn-s3-demo-bucket",
    "data": S3["Records"][0],
}
AS_GOOGLE = ObjectCreated(
    bucket="gs://some-bucket",
    key="folder/a b.csv",
    size=352,
    etag="CNu",
    version_id="1587627537",
    event_id="3103425958877813",
    time=5.0,
)
AS_AZURE = ObjectCreated(
    bucket="az://testcontainer", key="dir/a b.csv", size=447, etag="0x8D76C39E4407333", event_id=AZURE["id"], time=5.0
)
FORMS = {
    "s3": (S3, HAPPY),
    "sns": (SNS, HAPPY),
    "lambda of sqs": (LAMBDA_SQS, HAPPY),
    "lambda of sqs of sns": (
        {"Records": [LAMBDA_SQS["Records"][0] | {"body": json.dumps(SNS)}]},
        HAPPY,
    ),
    "lambda of sns": (LAMBDA_SNS, HAPPY),
    "minio": (MINIO, HAPPY),
    "cloudevent of s3": (KNATIVE, HAPPY),
    "cloudevents in a batch": ([KNATIVE], HAPPY),
    "eventbridge": (
        EVENT_BRIDGE,
        ObjectCreated(
            bucket="s3://amzn-s3-demo-bucket1",
            key="a b+c.csv",
            size=5,
            etag="b1946ac92492d2347c6235b4d2611184",
            version_id="IYV3p45BT0ac8hjHg1houSdS1a.Mro8e",
            event_id="17793124-05d4-b198-2fde-7ededc63b103",
            time=60.0,
        ),
    ),
    "seaweedfs": (
        SEAWEEDFS,
        ObjectCreated(
            bucket="s3://inb",
            key="a b/ü+1%.csv",
            size=8,
            etag="344fd2323dd33d5c058b7cf27de029e8",
            time=1795279563.0,
        ),
    ),
    "google": (GOOGLE, AS_GOOGLE),
    "azure": (AZURE, AS_AZURE),
    "azure's event grid": ([AZURE_GRID], msgspec.structs.replace(AS_AZURE, event_id=AZURE_GRID["id"])),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(form):
    """Every form of the same news is the same event, its key decoded as that form encodes it."""
    document, expected = FORMS[form]
    assert events.parse(json.dumps(document).encode()) == events.Parsed(created=(expected,))


def test_binary_cloud_events():
    """A CloudEvent whose attributes are headers, of HTTP or of Kafka, is read as one whose attributes are members."""
    attributes = {name: value for name, value in GOOGLE.items() if name not in {"data", "datacontenttype"}}
    body = json.dumps(GOOGLE["data"])
    for prefix in ("ce-", "ce_"):
        headers = {prefix + name: value for name, value in attributes.items()} | {"content-type": "application/json"}
        assert events.parse(body, headers).created == (AS_GOOGLE,)


def seaweedfs(**changes):
    entry = SEAWEEDFS["message"]["new_entry"] | changes.pop("entry", {})
    message = SEAWEEDFS["message"] | {"new_entry": entry} | changes.pop("message", {})
    return SEAWEEDFS | {"message": message} | changes


@pytest.mark.parametrize(
    "document",
    [
        {
            "Service": "Amazon S3",
            "Event": "s3:TestEvent",
            "Time": "2014-10-13T15:57:02.089Z",
            "Bucket": "amzn-s3-demo-bucket",
            "RequestId": "5582815E1AEA5ADF",
            "HostId": "8cLeGAmw098X5cv4Zkwcmo8vvZa3eH3eKxsPzbB9wrR+YstdA6Knx4Ip8EXAMPLE",
        },
        {"Records": [S3["Records"][0] | {"eventName": "ObjectRemoved:Delete"}]},
        {"Records": [S3["Records"][0] | {"eventName": "s3:ObjectAccessed:Get"}]},
        {
            "Records": [
                S3["Records"][0] | {"s3": {"bucket": {"name": "b"}, "object": {"key": "folder%2F", "size": 0}}},
            ]
        },
        EVENT_BRIDGE | {"detail-type": "Object Deleted"},
        GOOGLE | {"type": "google.cloud.storage.object.v1.deleted"},
        AZURE | {"type": "Microsoft.Storage.BlobDeleted"},
        seaweedfs(entry={"is_directory": True}),
        {"event_type": "delete", "key": "/buckets/inb/x", "message": {"old_entry": {"name": "x"}}},
        seaweedfs(message={"new_parent_path": "/buckets/inb/.uploads/6cbac5"}),
        seaweedfs(message={"new_parent_path": "/etc"}),
        {"Type": "UnsubscribeConfirmation", "SubscribeURL": "https://sns"},
    ],
    ids=[
        "test",
        "removed",
        "accessed",
        "folder",
        "eventbridge removed",
        "google removed",
        "azure removed",
        "seaweedfs folder",
        "seaweedfs removed",
        "seaweedfs part of an upload",
        "seaweedfs outside of buckets",
        "sns unsubscribed",
    ],
)
def test_ignored(document):
    """Tests, deletions, folders and parts of uploads are understood, and are no objects."""
    assert events.parse(json.dumps(document)) == events.Parsed(ignored=1)


def test_confirm():
    """A subscription of SNS that wants to be confirmed is told with its url, and with no object."""
    body = json.dumps({"Type": "SubscriptionConfirmation", "SubscribeURL": "https://sns.example/?Token=1"})
    assert events.parse(body) == events.Parsed(confirm="https://sns.example/?Token=1")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{", "expected JSON"),
        (b"\xff\xfe", "expected JSON"),
        (b'"x"', "expected an object, got str"),
        (b"{}", "expected an event of S3"),
        (b'{"a": 1}', "got an object with 'a'"),
        (json.dumps({"Type": "Notification", "Message": "not json"}), "expected JSON in the envelope"),
        (json.dumps({"Records": [{"eventName": "ObjectCreated:Put", "s3": {}}]}), "expected text at s3.object.key"),
        (json.dumps(GOOGLE | {"type": "com.github.push"}), "got one of type 'com.github.push'"),
        (b"[" * 12 + b"]" * 12, "within 6 envelopes"),
    ],
)
def test_malformed(body, reason):
    """What nobody understands is told with what was expected, and with its text."""
    (letter,) = events.parse(body).malformed
    assert reason in letter.reason
    assert letter.text


def test_one_malformed_of_several():
    """A record that nobody understands keeps none of its neighbours from being understood."""
    good = S3["Records"][0]
    found = events.parse(json.dumps({"Records": [good, {"eventName": "ObjectCreated:Put", "s3": {}}, good]}))
    assert len(found.created) == 2
    assert len(found.malformed) == 1


def test_long_text_is_shortened():
    """A letter holds the beginning of a long message, not all of it."""
    (letter,) = events.parse(b"x" * 100_000).malformed
    assert len(letter.text) < 3000


NAMES = [
    "Records",
    "s3",
    "eventName",
    "Sns",
    "Message",
    "Type",
    "body",
    "eventSource",
    "object",
    "key",
    "bucket",
    "name",
    "source",
    "detail-type",
    "detail",
    "event_type",
    "message",
    "new_entry",
    "specversion",
    "type",
    "data",
    "data_base64",
    "url",
    "new_parent_path",
    "attributes",
    "extended",
    "eventType",
    "size",
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(NAMES),
            inner
            | st.sampled_from(
                ["ObjectCreated:Put", "aws:sqs", "aws.s3", "Object Created", "Notification", "/buckets/b"]
            )
            | st.sampled_from(
                ["Microsoft.Storage.BlobCreated", "google.cloud.storage.object.v1.finalized", "https://[x"]
            )
            | st.sampled_from(["com.amazonaws.s3.ObjectCreated:Put", "SubscriptionConfirmation", "1.0"]),
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON | st.binary(max_size=64))
def test_nothing_raises(document):
    """No message, however wrong, is more than a message that nobody understands."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    found = events.parse(body)
    assert isinstance(found, events.Parsed)
    assert all(each.key and each.bucket for each in found.created)


def places_in(document, path=()):
    """Paths of all that is in a document, itself included."""
    yield path
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in items:
        yield from places_in(value, (*path, key))


@pytest.mark.parametrize("form", FORMS)
def test_anything_anywhere(form):
    """Whatever stands where something else should, in any place of any form, raises nothing."""
    document = FORMS[form][0]
    for path in list(places_in(document)):
        for wrong in (None, 1, -1, "", "x", "\0", [], {}, [1], {"a": 1}, True, 1e300):
            changed = [json.loads(json.dumps(document))]
            inner, last = changed, 0
            for key in path:
                inner, last = inner[last], key
            inner[last] = wrong
            assert isinstance(events.parse(json.dumps(changed[0])), events.Parsed)
