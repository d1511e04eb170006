"""`headrace batch watch` in processes of its own: killed, stopped, told by a webhook and by Kafka; and what it prints."""

import base64
import functools
import http.client
import json
import os
import re
import select
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from headrace.cli import batch_aws_lambda, batch_policy
from headrace.cli.group import headrace
from headrace.lifecycle.watch.ledger import Ledger
from headrace.testing.brokers import free_port

WAIT_SECONDS = 100


@pytest.fixture
def model(sum_model):
    """A model that adds two numbers, as a file."""
    return sum_model


@pytest.fixture
def watcher(command):
    """Start the command in a process."""
    return functools.partial(command, "batch", "watch")


def ended(process):
    """What it still said."""
    return tuple(each.decode() for each in process.communicate(timeout=WAIT_SECONDS))


def line(stream, pattern):
    """The match in the first line that fits."""
    deadline = time.monotonic() + WAIT_SECONDS
    seen = []
    while time.monotonic() < deadline and select.select([stream], [], [], deadline - time.monotonic())[0]:
        text = stream.readline().decode()
        seen.append(text)
        if (found := re.search(pattern, text)) is not None:
            return found
        if not text:
            break
    raise AssertionError(f"no line fits {pattern!r}: {seen}")


def rows(first, count):
    return "a,b\n" + "".join(f"{at},1\n" for at in range(first, first + count))


def answered(text):
    """The sums in an output."""
    return [int(each.split(",")[1]) for each in text.split()[1:]]


def test_killed(s3, model, tmp_path, watcher):
    """Killed again and again while files come, a watcher has answered each row of each file once in the end."""
    bucket, client = s3.bucket(), s3.client()
    files, count = 12, 4000
    arguments = (
        f"s3://{bucket}/in/",
        "--model",
        model,
        "-o",
        f"s3://{bucket}/out/",
        "--poll",
        "0.1",
        "--batch-rows",
        500,
    )
    for at in range(files):
        client.put_object(Bucket=bucket, Key=f"in/{at}.csv", Body=rows(at * count, count).encode())
    for _ in range(2):
        with watcher(*arguments, "--concurrency", 2) as process:
            line(process.stdout, "^done")
    with watcher(*arguments, "--once") as process:
        _, complaints = ended(process)
    assert process.returncode == 0, complaints
    with Ledger(tmp_path / ".headrace/batch-watch.db") as ledger:
        assert [(row.state, row.outcome.rows) for row in ledger.rows()] == [("done", count)] * files
    found = []
    for at in range(files):
        body = client.get_object(Bucket=bucket, Key=f"out/{at}.csv")["Body"].read().decode()
        found += answered(body)
    assert found == [at + 1 for at in range(files * count)]
    listed = [each["Key"] for each in client.list_objects_v2(Bucket=bucket, Prefix="out/")["Contents"]]
    assert len([key for key in listed if re.fullmatch(r"out/\d+\.csv", key)]) == files


class Forward(socketserver.ThreadingTCPServer):
    """A port that leads to another one."""

    allow_reuse_address = daemon_threads = True

    def __init__(self, port, to):
        class Both(socketserver.BaseRequestHandler):
            def handle(self):
                with socket.create_connection(to) as other:
                    ends = {self.request: other, other: self.request}
                    while ready := select.select(list(ends), [], [], WAIT_SECONDS)[0]:
                        for end in ready:
                            if not (data := end.recv(65536)):
                                return
                            ends[end].sendall(data)

        super().__init__(("127.0.0.1", port), Both)
        threading.Thread(target=self.serve_forever, daemon=True).start()


def test_begun_again_while_the_store_is_away(s3, model, tmp_path, watcher):
    """A watcher that is begun again while its store is away waits for it and goes on; one that was never there ends."""
    bucket, client, port = s3.bucket(), s3.client(), free_port()
    arguments = (f"s3://{bucket}/in/", "--model", model, "-o", f"s3://{bucket}/out/", "--poll", "0.1")
    away = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "HEADRACE_ARTIFACTS_RETRIES": "0"}
    with watcher(*arguments, **away) as process:
        _, said = ended(process)
        assert process.returncode == 5, said
    client.put_object(Bucket=bucket, Key="in/1.csv", Body=rows(0, 3).encode())
    with watcher(*arguments, "--once") as process:
        assert "in/1.csv  3 rows" in ended(process)[0]
    client.put_object(Bucket=bucket, Key="in/2.csv", Body=rows(3, 3).encode())
    with watcher(*arguments, **away) as process:
        line(process.stderr, "it is asked again")
        with Forward(port, ("127.0.0.1", int(s3.endpoint.rpartition(":")[2]))) as forward:
            line(process.stdout, r"^done .*2\.csv")
            process.terminate()
            ended(process)
            forward.shutdown()
    assert answered(client.get_object(Bucket=bucket, Key="out/2.csv")["Body"].read().decode()) == [4, 5, 6]


def test_stopped(model, tmp_path, watcher):
    """SIGTERM ends a watcher well: what it answers ends, the rest waits in the ledger, and the exit status is 0."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.csv").write_text(rows(0, 10))
    os.utime(tmp_path / "in/a.csv", (1, 1))
    with watcher("in", "--model", model, "-o", "out", "--poll", "0.1", "--json") as process:
        first = json.loads(line(process.stdout, "^{.*}$")[0])
        process.send_signal(signal.SIGTERM)
        rest, complaints = ended(process)
    assert process.returncode == 0, complaints
    assert (first["state"], first["outcome"]["answered"]) == ("done", 10)
    assert json.loads(rest.splitlines()[-1])["tally"]["done"] == 1
    assert not list((tmp_path / ".headrace/batch-watch.db.watchers").glob("*-*"))


def test_interrupted(model, tmp_path, watcher):
    """Ctrl-c is a stop too, and the exit status says that somebody wanted it."""
    (tmp_path / "in").mkdir()
    with watcher("in", "--model", model, "-o", "out", "--poll", "0.1") as process:
        line(process.stderr, "^watching in")
        (tmp_path / "in/a.csv").write_text(rows(0, 1))
        os.utime(tmp_path / "in/a.csv", (1, 1))
        line(process.stdout, "^done")
        process.send_signal(signal.SIGINT)
        ended(process)
    assert process.returncode == 130


def test_webhook(s3, model, tmp_path, watcher):
    """Events that are posted are heeded, by those who have the token; nobody else's are, and nothing shows it."""
    bucket, client = s3.bucket(), s3.client()
    client.put_object(Bucket=bucket, Key="in/a b.csv", Body=rows(0, 5).encode())
    event = {
        "event_type": "create",
        "key": f"/buckets/{bucket}/in/a b.csv",
        "message": {"new_entry": {"name": "a b.csv", "attributes": {}}, "new_parent_path": f"/buckets/{bucket}/in"},
    }
    arguments = (f"s3://{bucket}/in/", "--model", model, "-o", f"s3://{bucket}/out", "--poll", "0", "--webhook", "0")
    (tmp_path / "token").write_text("hush-hush-token\n")
    with watcher(*arguments, "--webhook-token-file", "token") as process:
        port = int(line(process.stderr, r"^webhook: http://127\.0\.0\.1:(\d+)/")[1])

        def post(body, authorization="Bearer hush-hush-token", method="POST"):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_SECONDS)
            connection.request(method, "/", body, {"authorization": authorization})
            reply = connection.getresponse()
            found = reply.status, json.loads(reply.read() or b"null")
            connection.close()
            return found

        basic = "Basic " + base64.b64encode(b"sns:hush-hush-token").decode()
        for wrong in ("", "Bearer wrong", "Basic !", "Basic " + base64.b64encode(b"sns:wrong").decode()):
            assert post(json.dumps(event), wrong)[0] == 401
        assert post(b"nonsense")[0] == 400
        assert post(b"", method="PUT")[0] == 405
        assert post(b"", method="GET") == (200, {"ready": True})
        assert post(json.dumps(event)) == (200, {"fresh": 1, "known": 0, "ignored": 0, "malformed": 0})
        said = line(process.stdout, "^done .*")[0]
        assert post(json.dumps(event), basic)[0] == 200
        process.send_signal(signal.SIGTERM)
        rest, complaints = ended(process)
    assert process.returncode == 0, complaints
    body = client.get_object(Bucket=bucket, Key="out/a b.csv")["Body"].read().decode()
    assert answered(body) == [1, 2, 3, 4, 5]
    shown = CliRunner().invoke(
        headrace, ["batch", "watch", "--list", "--json", "--ledger", str(tmp_path / ".headrace/batch-watch.db")]
    )
    told = json.loads(shown.output)
    assert told["counts"]["done"] == 1
    assert [letter["text"] for letter in told["dead_letters"]] == ["nonsense"]
    for secret in ("hush-hush-token", s3.secret_key):
        assert secret not in said + rest + complaints + shown.output


def test_kafka(kafka, topic, s3, model, tmp_path, watcher):
    """Events of a topic are heeded."""
    from confluent_kafka import Producer
    from confluent_kafka.admin import AdminClient, NewTopic

    bucket, client = s3.bucket(), s3.client()
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.create_topics([NewTopic(topic, 2, 1)])[topic].result(WAIT_SECONDS)
    producer = Producer({"bootstrap.servers": kafka})
    for at in range(3):
        client.put_object(Bucket=bucket, Key=f"in/{at}.csv", Body=rows(at, 1).encode())
        record = {
            "eventName": "s3:ObjectCreated:Put",
            "s3": {"bucket": {"name": bucket}, "object": {"key": f"in/{at}.csv"}},
        }
        producer.produce(topic, json.dumps({"Records": [record]}))
    assert producer.flush(WAIT_SECONDS) == 0
    arguments = (f"s3://{bucket}/in/", "--model", model, "-o", f"s3://{bucket}/out", "--poll", "0", "--kafka", topic)
    with watcher(*arguments, "--kafka-group", topic, "--once", HEADRACE_KAFKA_BROKERS=kafka) as process:
        said, complaints = ended(process)
    assert process.returncode == 0, complaints
    assert said.count("done ") == 3


def run(*arguments):
    return CliRunner().invoke(headrace, ["batch", "watch", *map(str, arguments)])


def test_once_in_folders(model, tmp_path, monkeypatch):
    """Bad rows are rejected and counted, a file that does not fit is dead and makes the exit status 1; a list shows
    it, and with --retry-dead it has another try.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.csv").write_text("a,b\n1,2\nx,3\n")
    (tmp_path / "in/b.csv").write_text("q\n1\n")
    for path in (tmp_path / "in").iterdir():
        os.utime(path, (1, 1))
    found = run("in", "--model", model, "-o", "out", "--once", "--json")
    assert found.exit_code == 1, found.output
    by_uri = {Path(each["uri"]).name: each for each in map(json.loads, found.stdout.splitlines()) if "uri" in each}
    assert (by_uri["a.csv"]["outcome"]["answered"], by_uri["a.csv"]["outcome"]["rejected"]) == (1, 1)
    assert "takes 2 numbers" in by_uri["b.csv"]["error"]
    listed = run("--list").output
    assert re.search(r"b\.csv +dead +1 ", listed)
    assert re.search(r"a\.csv +done +1 rows, 1 rejected", listed)
    assert "dead" in run("in", "--model", model, "-o", "out", "--once", "--retry-dead").stdout
    assert run("in", "--model", model, "-o", "out", "--once").exit_code == 0


def test_wrong_use(model, tmp_path, monkeypatch):
    """What cannot be watched is said before anything is loaded or read, with exit status 2."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "k")
    (tmp_path / "in").mkdir()
    for arguments, text in (
        ((), "missing INPUT"),
        (("in",), "missing --model"),
        (("in", "--model", model), "missing --output"),
        (("in", "--model", model, "-o", "out", "--once", "--webhook", "1"), "--once"),
        (("in", "--model", model, "-o", "out", "--webhook", "0.0.0.0:1"), "--webhook-token-file"),
        (("in", "--model", model, "-o", "out", "--webhook", "x"), "--webhook is"),
        (("in", "--model", model, "-o", "in/out"), "without end"),
        (("in", "--model", model, "-o", "out", "--name", "out.csv"), "{path}"),
        (("ftp://in/", "--model", model, "-o", "out"), "ftp"),
        (("--list",), "no ledger"),
        (("in", "--model", model, "-o", "out", "--sqs", "q"), "queue"),
    ):
        found = run(*arguments)
        assert (found.exit_code, text in found.output) == (2, True), (arguments, found.output)


def test_aws_lambda(s3, model, tmp_path, monkeypatch):
    """What is written for Lambda is a handler that answers an event of S3, with a policy and a template beside it."""
    buckets = [s3.bucket() for _ in range(3)]
    client = s3.client()
    client.put_object(Bucket=buckets[2], Key="m/model.onnx", Body=model.read_bytes())
    client.put_object(Bucket=buckets[0], Key="in/a.csv", Body=rows(0, 3).encode())
    arguments = [
        "--model",
        f"s3://{buckets[2]}/m",
        "--in",
        f"s3://{buckets[0]}/in/",
        "--output",
        f"s3://{buckets[1]}/o",
    ]
    where = tmp_path / "function"
    found = CliRunner().invoke(batch_aws_lambda.command, [*arguments, "-o", str(where), "--keep", "a"])
    assert found.exit_code == 0, found.output
    assert sorted(path.name for path in where.iterdir()) == [
        "Dockerfile",
        "README.md",
        "function.json",
        "handler.py",
        "policy.json",
        "requirements.txt",
        "template.yaml",
    ]
    record = {"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": buckets[0]}, "object": {"key": "in/a.csv"}}}
    code = f"import json, handler; print(json.dumps(handler.handler({{'Records': [{record!r}]}}, None)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=where,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(where), *sys.path]),
            "HEADRACE_ARTIFACTS_CACHE_DIR": str(tmp_path / "cache"),
            "HEADRACE_MODELS_CACHE_DIR": str(tmp_path / "models"),
        },
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["objects"][0]["outcome"]["answered"] == 3
    assert client.get_object(Bucket=buckets[1], Key="o/a.csv")["Body"].read().startswith(b'"row","a","y"')
    again = CliRunner().invoke(headrace, ["batch", "aws-lambda", *arguments, "-o", str(where)])
    assert (again.exit_code, "--force" in again.output) == (2, True)
    packed = tmp_path / "function.zip"
    assert CliRunner().invoke(batch_aws_lambda.command, [*arguments, "-o", str(packed)]).exit_code == 0
    assert CliRunner().invoke(batch_aws_lambda.command, arguments).output == (where / "handler.py").read_text()
    policy = CliRunner().invoke(
        batch_policy.command,
        ["--in", f"s3://{buckets[0]}/in/", "--out", f"s3://{buckets[1]}/o", "--model", f"s3://{buckets[2]}/m"],
    )
    assert json.loads(policy.output) == json.loads((where / "policy.json").read_text())
