"""Bad input of batch jobs, stores and Kafka as people meet it: what the command or the wire says, and that nothing is
lost, of the rows that are good and of the messages that are.
"""

from __future__ import annotations

import json
import re
import resource
import threading
import time

import pytest
from click.testing import CliRunner
from confluent_kafka import Producer

from headrace.brokers import admin
from headrace.brokers.follower import Follower
from headrace.brokers.settings import KafkaSettings
from headrace.cli import group
from headrace.testing.brokers import Broker

pytestmark = pytest.mark.timeout(240)  # processes that start and stop, on machines that do other things

HTTP = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_EC2_METADATA_DISABLED": "true"}
NOBODY = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE")


@pytest.fixture
def model(sum_model):
    """A model that adds two numbers, as a file."""
    return sum_model


@pytest.fixture
def headrace(tmp_path, command, monkeypatch):
    """Run the command in a folder; exit code, what was printed, and what complained. In this process, but where it would
    serve, or where the size of files is bounded, which holds for a whole process.
    """

    def run(*arguments, most_bytes=0, **environ):
        with monkeypatch.context() as patch:
            for name in NOBODY:
                patch.delenv(name, raising=False)
            for name, value in {"HEADRACE_MODELS_OPTIMIZE": "off", **environ}.items():
                patch.setenv(name, value)
            if most_bytes or arguments[0] == "serve":
                with command(*arguments) as process:
                    if most_bytes:
                        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
                    out, err = (each.decode() for each in process.communicate(timeout=120))
                code = process.returncode
            else:
                patch.chdir(tmp_path)
                done = CliRunner().invoke(group.headrace, list(map(str, arguments)), prog_name="headrace")
                assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
                code, out, err = done.exit_code, done.stdout, done.stderr
        assert "Traceback" not in err
        return code, out, err

    return run


def batch(headrace, *arguments, **more):
    return headrace("batch", "run", *arguments, "--state", "state", **more)


def left(folder):
    """What a job that failed has left for everybody to see."""
    return sorted(path.name for path in folder.iterdir() if path.name != "state")


def answers(path):
    """Sums by row."""
    return dict(line.split(",") for line in path.read_text().split()[1:])


def test_an_unknown_scheme_is_named_with_the_nearest(headrace, model, tmp_path):
    """Wherever a uri stands, a scheme that nobody knows is exit code 2 and one line with the nearest, and nothing is
    written.
    """
    (tmp_path / "in.csv").write_text("a,b\n1,2\n")
    for arguments in (
        ("fetch", "s4://bucket/model"),
        ("batch", "run", "s4://bucket/model", "in.csv", "out.csv"),
        ("batch", "run", model, "s4://bucket/in.csv", "out.csv"),
        ("batch", "run", model, "in.csv", "s4://bucket/out.csv"),
        ("batch", "watch", "s4://bucket/", "--model", model, "-o", "out", "--once"),
    ):
        code, _, said = headrace(*arguments)
        assert (code, said.count("\n")) == (2, 1), said
        assert "'s4': did you mean s3?" in said
    assert left(tmp_path) == ["in.csv"]


def test_missing_credentials_are_named_before_anything_is_done(headrace, model, tmp_path):
    """Where a store wants credentials and there are none, each command says which variables to set, and writes
    nothing.
    """
    (tmp_path / "in.csv").write_text("a,b\n1,2\n")
    for arguments in (
        ("fetch", "s3://bucket/model"),
        ("batch", "run", "s3://bucket/model", "in.csv", "out.csv"),
        ("batch", "run", model, "s3://bucket/in.csv", "out.csv"),
        ("batch", "run", model, "in.csv", "s3://bucket/out.csv"),
        ("serve", "s3://bucket/model", "--port", "0"),
    ):
        code, _, said = headrace(*arguments, **HTTP, HOME=str(tmp_path))
        assert code == 1, said
        assert "no credentials for S3: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in said
    assert not (tmp_path / "out.csv").exists()


WRITES = """
from pathlib import Path


class Writes:
    def predict(self, words: list[str]) -> list[str]:
        begun = Path({folder!r}, "begun")
        if not begun.exists():
            begun.touch()
            with Path({folder!r}, "in.csv").open("a") as file:
                file.write("last\\n")
        return [word.upper() for word in words]
"""


def test_a_file_that_is_half_written(headrace, tmp_path):
    """A file of which a second half comes while the job reads it gives no output and is told as changed; once it is
    whole, all of its rows are answered.
    """
    (tmp_path / "model.py").write_text(WRITES.format(folder=str(tmp_path)))
    rows = [f"r{at}" for at in range(2000)]
    (tmp_path / "in.csv").write_text("\n".join(["words", *rows]) + "\n")
    arguments = (tmp_path / "model.py", "in.csv", "out.csv", "--batch-rows", 500, "--threads", 1)
    code, _, said = batch(headrace, *arguments)
    assert code == 1, said
    assert re.search(r"in\.csv:? (has )?changed .* when it is written", said), said
    assert "out.csv" not in left(tmp_path)
    assert "out.csv.manifest.json" not in left(tmp_path)
    code, _, said = batch(headrace, *arguments, "--overwrite")
    assert code == 0, said
    found = [line.split(",")[1] for line in (tmp_path / "out.csv").read_text().split()[1:]]
    assert found == [f'"{row.upper()}"' for row in (*rows, "last")]


@pytest.mark.parametrize(
    ("name", "said"),
    [("half.parquet", "half.parquet"), ("half.csv.gz", "half.csv.gz"), ("half.arrow", "half.arrow")],
)
def test_half_a_file_is_no_file(headrace, model, tmp_path, name, said):
    """Of a file that ends before its end nothing is answered, and the one line that is said names it."""
    import gzip

    import pyarrow as pa
    import pyarrow.parquet

    table = pa.table({"a": pa.array(range(5000), pa.float32()), "b": pa.array(range(5000), pa.float32())})
    path = tmp_path / name
    if name.endswith("parquet"):
        pyarrow.parquet.write_table(table, path)
    elif name.endswith("arrow"):
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    else:
        path.write_bytes(gzip.compress(b"a,b\n" + b"".join(b"%d,%d\n" % (at, at * at) for at in range(5000))))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    code, _, told = batch(headrace, model, name, "out.csv")
    assert (code, told.count("\n")) == (1, 1), told
    assert said in told
    assert left(tmp_path) == [name]


@pytest.mark.parametrize("header", ["a", "a,b,c"])
def test_a_csv_with_a_missing_or_extra_column(headrace, model, tmp_path, header):
    """Columns that do not fit the model are told with their names and what to write, before anything is; so told, a
    job with one column too many answers every row.
    """
    row = ",".join("123"[: header.count(",") + 1])
    (tmp_path / "in.csv").write_text(f"{header}\n{row}\n{row}\n")
    code, _, said = batch(headrace, model, "in.csv", "out.csv")
    assert (code, said.count("\n")) == (1, 1), said
    assert f"takes 2 numbers a row; the file has {header.count(',') + 1} column" in said
    assert f"({', '.join(header.split(','))})" in said
    assert "--columns x=COLUMN,..." in said
    assert left(tmp_path) == ["in.csv"]
    code, _, said = batch(headrace, model, "in.csv", "out.csv", "--columns", "x=a,b")
    if header == "a":
        assert (code, "'b'" in said) == (1, True), said
        assert left(tmp_path) == ["in.csv"]
    else:
        assert code == 0, said
        assert answers(tmp_path / "out.csv") == {"0": "3", "1": "3"}


def test_a_wrong_type_in_row_70001(headrace, model, tmp_path):
    """One word among seventy thousand numbers is one reject with row, line and reason; every other row is answered."""
    lines = [f"{at},1" for at in range(80_000)]
    lines[70_000] = "many,1"
    (tmp_path / "in.csv").write_text("\n".join(["a,b", *lines]) + "\n")
    code, said, complaints = batch(headrace, model, "in.csv", "out.csv", "--json")
    assert code == 0, complaints
    told = json.loads(said)
    assert (told["rows"], told["answered"], told["rejected"]) == (80_000, 79_999, 1)
    (reject,) = map(json.loads, (tmp_path / "out.csv.rejects.jsonl").read_text().splitlines())
    assert (reject["row"], reject["line"]) == (70_000, 70_002)
    assert "expected FP32, came 'many'" in reject["reason"]
    assert answers(tmp_path / "out.csv") == {str(at): str(at + 1) for at in range(80_000) if at != 70_000}
    code, _, said = batch(headrace, model, "in.csv", "fail.csv", "--on-error", "fail")
    assert code == 1
    assert "row 70000 (line 70002): column 'a'" in said
    assert not (tmp_path / "fail.csv").exists()


def test_an_output_that_cannot_be_written(s3, headrace, model, tmp_path):
    """A file where a folder should be, and keys that are wrong: one line that names the cause, and nothing anywhere."""
    (tmp_path / "in.csv").write_text("a,b\n1,2\n")
    (tmp_path / "file").touch()
    wrong = {**s3.environ, "AWS_SECRET_ACCESS_KEY": "wrong-secret-of-mine"}
    for output, environ, cause in (
        ("file/out.csv", {}, "file/out.csv: cannot be written, its folder cannot be made"),
        (f"s3://{s3.bucket()}/out.csv", wrong, "refused"),
    ):
        code, _, said = batch(headrace, model, "in.csv", output, **environ)
        assert (code, said.count("\n")) == (1, 1), said
        assert cause in said
        assert "wrong-secret-of-mine" not in said
    assert left(tmp_path) == ["file", "in.csv"]


@pytest.mark.parametrize("full", ["output", "state"])
def test_a_disk_that_is_full_costs_no_row(headrace, model, tmp_path, full):
    """Where output or state find no more room, the line names the place and says so, nothing is half there, and the
    same command goes on once there is room.
    """
    (tmp_path / "in.csv").write_text("a,b\n" + "".join(f"{at},1\n" for at in range(100_000)))
    most = {"output": 400_000, "state": 200_000}[full]  # a row is eleven bytes of output, and twelve or more of state
    arguments = (model, "in.csv", "out.csv", "--batch-rows", 1000)
    code, _, said = batch(headrace, *arguments, most_bytes=most)
    assert code == 1, said
    assert "takes no more" in said.splitlines()[-1]
    assert left(tmp_path) == ["in.csv"]
    code, _, said = batch(headrace, *arguments)
    assert code == 0, said
    assert answers(tmp_path / "out.csv") == {str(at): str(at + 1) for at in range(100_000)}


# -- Kafka --

UP = """
class Up:
    def predict(self, words: list[str]) -> list[str]:
        return [word.upper() for word in words]
"""


class Topics:
    """The topics of a server, and both ends of them."""

    def __init__(self, brokers, name):
        self.name = name
        self.settings = KafkaSettings(brokers=brokers, group=name, partitions=2)
        self.names = (name, f"{name}-out", f"{name}-dead")
        self.environ = {
            "HEADRACE_KAFKA_BROKERS": brokers,
            "HEADRACE_KAFKA_GROUP": name,
            "HEADRACE_KAFKA_INPUT_TOPICS": name,
            "HEADRACE_KAFKA_OUTPUT_TOPIC": self.names[1],
            "HEADRACE_KAFKA_DEAD_LETTER_TOPIC": self.names[2],
            "HEADRACE_KAFKA_MODEL": "up",
        }
        self.records = []

    def make(self):
        admin.ensure_topics(self.settings, self.names, create=True, partitions=2)
        return self

    def send(self, messages):
        producer = Producer({"bootstrap.servers": self.settings.brokers})
        for key, value in messages:
            producer.produce(self.name, value, key)
        assert producer.flush(60) == 0

    def good(self, low, high):
        for at in range(low, high):
            tensor = {"name": "words", "shape": [1], "datatype": "BYTES", "data": [f"w{at}"]}
            yield f"k{at}".encode(), json.dumps({"inputs": [tensor]}).encode()

    def wait(self, topic, keys):
        """Records of a topic, once they have all keys."""
        records, there = [], threading.Event()

        def heed(new):
            records.extend(new)
            if keys <= {each.key for each in records}:
                there.set()

        follower = Follower(self.settings, heed)
        follower.start()
        try:
            follower.follow(topic, records=100_000)
            assert there.wait(90), f"{len(keys - {each.key for each in records})} of {len(keys)} never came"
        finally:
            follower.close()
        return records


@pytest.fixture
def up(tmp_path):
    """A model in a file of its own."""
    (tmp_path / "up.py").write_text(UP)
    return tmp_path / "up.py"


def keys(low, high):
    return {f"k{at}".encode() for at in range(low, high)}


def spoken(records):
    return {each.key: json.loads(each.value)["outputs"][0]["data"] for each in records}


def test_poison_messages_cost_nobody_an_answer(kafka, topic, serve, up):
    """Among good messages each that cannot be answered is a dead letter, as it came and with its cause in headers; the
    server counts them, and answers all others.
    """
    topics = Topics(kafka, topic).make()
    server = serve(up, "--kafka", environment=topics.environ)
    poison = [(b"none", b""), (b"text", b"\xff\xfe no JSON"), (b"empty", b"{}"), (b"type", b'{"inputs": 3}')]
    topics.send([*topics.good(0, 20), *poison, *topics.good(20, 40)])
    assert spoken(topics.wait(topics.names[1], keys(0, 40))) == {f"k{at}".encode(): [f"W{at}"] for at in range(40)}
    dead = {each.key: each for each in topics.wait(topics.names[2], {key for key, _ in poison})}
    for key, value in poison:
        assert dead[key].value == value
        assert "InvalidRequest" in " ".join(value.decode() for _, value in dead[key].headers)
    assert server.ask("/v2/health/ready")[0] == 200


def test_an_unknown_topic_ends_the_start_by_name(kafka, topic, serve, up):
    """A server whose topic is not there ends with exit code 2, names the topic, and says how to have it made."""
    topics = Topics(kafka, topic)
    with pytest.raises(pytest.fail.Exception) as failed:
        serve(up, "--kafka", environment=topics.environ)
    told = str(failed.value)
    assert "the server ended with 2" in told
    assert f"has no topic '{topic}'" in told
    assert "kafka.create_topics" in told
    assert "Traceback" not in told


def test_a_broker_that_is_away_at_the_start_and_in_the_middle(tmp_path, topic, serve, up):
    """A server starts without its broker, says where it looks and that it is not ready, and answers other wires; when
    the broker is there, ends and is back, every message is answered.
    """
    broker = Broker(tmp_path / "broker")
    topics = Topics(broker.bootstrap, topic)
    server = serve(up, "--kafka", environment=topics.environ)
    try:
        assert server.infer("up", ["w"], name="words", datatype="BYTES")["output-0"].tolist() == ["W"]
        assert f"Kafka at {broker.bootstrap}" in "".join(server.errors)
        broker.start()
        topics.make()
        topics.send(topics.good(0, 200))
        topics.wait(topics.names[1], keys(0, 200))
        topics.send(topics.good(200, 400))
        broker.stop()
        assert server.infer("up", ["w"], name="words", datatype="BYTES")["output-0"].tolist() == ["W"]
        broker.start()
        topics.send(topics.good(400, 600))
        found = spoken(topics.wait(topics.names[1], keys(0, 600)))
        assert found == {f"k{at}".encode(): [f"W{at}"] for at in range(600)}
        deadline = time.monotonic() + 60
        while server.ask("/v2/health/ready")[0] != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        server.process.terminate()
        server.process.wait(60)  # while its broker is there
        broker.kill()
