"""What the library is told, what its errors become, and TLS and SASL against a broker behind a proxy that speaks them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import struct
import threading

import pytest
from confluent_kafka import KafkaError

from headrace.brokers import admin, connection
from headrace.brokers.base import Outgoing
from headrace.brokers.counts import PumpCounts
from headrace.brokers.producer import Producer
from headrace.brokers.pump import Pump
from headrace.brokers.settings import KafkaSettings
from headrace.errors import SettingsError, Temporary, TooLarge
from headrace.testing.brokers import free_port

PASSWORD = "horse-battery-staple"


# -- what the library is told --


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"security.protocol": "plaintext"}),
        ({"tls_ca": "ca.pem"}, {"security.protocol": "ssl", "ssl.ca.location": "ca.pem"}),
        (
            {"username": "u", "password": "p"},
            {
                "security.protocol": "sasl_plaintext",
                "sasl.mechanism": "PLAIN",
                "sasl.username": "u",
                "sasl.password": "p",
            },
        ),
        (
            {"username": "u", "password": "p", "sasl_mechanism": "SCRAM-SHA-512", "tls_ca": "c"},
            {"security.protocol": "sasl_ssl", "sasl.mechanism": "SCRAM-SHA-512"},
        ),
        ({"protocol": "sasl_ssl"}, {"security.protocol": "sasl_ssl"}),
        (
            {"protocol": "ssl", "tls_verify_hostname": False},
            {"ssl.endpoint.identification.algorithm": "none"},
        ),
        ({"tls_certificate": "c", "tls_key": "k"}, {"ssl.certificate.location": "c", "ssl.key.location": "k"}),
        ({"options": ("client.id = mine", "security.protocol=ssl")}, {"client.id": "mine", "security.protocol": "ssl"}),
    ],
)
def test_what_the_library_is_told(settings, expected):
    """Settings become the library's own, the protocol follows from them, and options stand over all."""
    told = connection.librdkafka(KafkaSettings(brokers="b:1", **settings), "producer")
    assert told.items() >= {"bootstrap.servers": "b:1", **expected}.items()


def test_options_of_another_role():
    """An option that only consumers have is not given to producers, and the other way round."""
    settings = KafkaSettings(options=("group.protocol=consumer", "linger.ms=3", "debug=broker"))
    told = {role: connection.librdkafka(settings, role) for role in ("consumer", "producer", "admin")}
    names = {"group.protocol", "linger.ms", "debug"}
    assert {role: names & each.keys() for role, each in told.items()} == {
        "consumer": {"group.protocol", "debug"},
        "producer": {"linger.ms", "debug"},
        "admin": {"debug"},
    }


@pytest.mark.parametrize("options", [("nonsense",), ("=x",)])
def test_options_that_are_none(options):
    """An entry that is not NAME=VALUE is told by its number, not by what it holds."""
    with pytest.raises(SettingsError, match=r"kafka\.options: entry 1 is not NAME=VALUE") as caught:
        connection.librdkafka(KafkaSettings(options=options), "admin")
    assert "nonsense" not in str(caught.value)


@pytest.mark.parametrize("option", [f"no.such.option={PASSWORD}", f"acks={PASSWORD}"])
def test_options_that_the_library_refuses(option):
    """An option that the library does not know or take is a wrong setting, whose value is not shown."""
    with pytest.raises(SettingsError, match=r"Kafka at localhost:9092: cannot connect") as caught:
        Producer(KafkaSettings(options=(option,))).start()
    assert PASSWORD not in str(caught.value)


def test_settings_hide_their_secrets():
    """Neither the password nor an option is seen where settings are printed."""
    settings = KafkaSettings(password=PASSWORD, options=(f"ssl.key.password={PASSWORD}",))
    assert PASSWORD not in repr(settings)


@pytest.mark.parametrize(
    ("code", "kind", "todo"),
    [
        (KafkaError._AUTHENTICATION, SettingsError, "kafka.password"),
        (KafkaError._SSL, SettingsError, "kafka.tls_ca"),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, SettingsError, "rights"),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, SettingsError, "kafka.create_topics"),
        (KafkaError.MSG_SIZE_TOO_LARGE, TooLarge, "max.message.bytes"),
        (KafkaError._ALL_BROKERS_DOWN, Temporary, "tried again"),
        (KafkaError._TRANSPORT, Temporary, "tried again"),
    ],
)
def test_errors(code, kind, todo):
    """Each error of the library says where, what was done and what would help, as the class that tells whether to wait."""
    settings = KafkaSettings(brokers="b:1", password=PASSWORD)
    error = connection.error_of(settings, KafkaError(code, f"it failed for {PASSWORD}"), "read topic 't'")
    assert type(error) is kind
    assert str(error).startswith("Kafka at b:1: cannot read topic 't': it failed for ***; ")
    assert todo in str(error)


# -- TLS and SASL --


class Proxy:
    """A port in front of a broker, which takes TLS, or a user and password by SASL, or both.

    It puts its own port in the place of the broker's wherever the broker tells it, and answers the handshake of SASL
    itself, so that everything else is the broker's.
    """

    def __init__(self, broker, *, tls=None, user=None):
        host, _, port = broker.split(",")[0].rpartition(":")
        self.host, self.behind, self.tls, self.user = host, int(port), tls, user
        self.port, self.tokens = 0, []
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)

    @property
    def brokers(self):
        return f"127.0.0.1:{self.port}"

    def __enter__(self):
        self.thread.start()
        self.server = self.run(asyncio.start_server(self.serve, "127.0.0.1", 0, ssl=self.tls))
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_):
        async def stop():
            self.server.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            for _ in range(3):  # what was aborted is closed in a later turn
                await asyncio.sleep(0)

        self.run(stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(20)

    async def serve(self, reader, writer):
        opened = [writer]
        try:
            behind_reader, behind = await asyncio.open_connection(self.host, self.behind)
            opened.append(behind)
            back = asyncio.create_task(self.back(behind_reader, writer))
            try:
                await self.forth(reader, writer, behind)
            finally:
                back.cancel()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            return
        finally:
            for each in opened:
                each.transport.abort()

    async def forth(self, reader, writer, behind):
        known, raw = self.user is None, False
        while True:
            frame = await self.frame(reader)
            api, version, correlation = struct.unpack(">hhi", frame[:8]) if len(frame) >= 8 else (-1, 0, 0)
            if not known and raw:  # a token of its own, after the handshake's first version
                known = self.knows(frame)
                if not known:
                    return
                writer.write(struct.pack(">i", 0))
            elif not known and api == 17:
                raw = version == 0
                self.answer(writer, correlation, struct.pack(">hih", 0, 1, 5) + b"PLAIN")
            elif not known and api == 36:
                known = self.knows(frame)
                text = b"" if known else b"wrong user or password"
                flexible = version >= 2
                error = struct.pack(">h", 0 if known else 58)
                if flexible:
                    rest = bytes([len(text) + 1]) + text + b"\1" + struct.pack(">q", 0) + b"\0"
                    self.answer(writer, correlation, b"\0" + error + rest)
                else:
                    rest = struct.pack(">h", len(text)) + text + struct.pack(">i", 0)
                    self.answer(writer, correlation, error + rest + (struct.pack(">q", 0) if version else b""))
            elif known or api == 18:
                behind.write(struct.pack(">i", len(frame)) + frame)
            else:
                return

    async def back(self, reader, writer):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            theirs, ours = (self.host.encode() + struct.pack(">i", port) for port in (self.behind, self.port))
            while True:
                frame = (await self.frame(reader)).replace(theirs, ours)
                writer.write(struct.pack(">i", len(frame)) + frame)

    @staticmethod
    async def frame(reader):
        (size,) = struct.unpack(">i", await reader.readexactly(4))
        return await reader.readexactly(size)

    @staticmethod
    def answer(writer, correlation, body):
        writer.write(struct.pack(">ii", 4 + len(body), correlation) + body)

    def knows(self, frame):
        self.tokens.append(frame)
        user, password = self.user
        return f"\0{user}\0{password}".encode() in frame


@pytest.fixture
def tls(certificate):
    """Context of a server of that certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    return context


async def echoed(settings, topic):
    """A message through a topic, a pump and another topic."""
    await asyncio.to_thread(admin.ensure_topics, settings, [topic, f"{topic}-out"], create=True, partitions=1)
    seen = asyncio.Event()

    async def handle(record):
        seen.set()
        return [Outgoing(f"{topic}-out", record.value)]

    pump = Pump(settings, topics=[topic], group=topic, handle=handle, counts=PumpCounts())
    try:
        await pump.start()
        await asyncio.wait_for(pump.producer.deliver([Outgoing(topic, b"1")]), 20)
        await asyncio.wait_for(seen.wait(), 20)
    finally:
        await pump.stop(10)
    return pump.counts


async def test_tls(broker, topic, certificate, tls):
    """Over TLS, with the broker's certificate vouched for by `tls_ca`, messages are read and answered."""
    with Proxy(broker.bootstrap, tls=tls) as proxy:
        counts = await echoed(KafkaSettings(brokers=proxy.brokers, tls_ca=str(certificate / "cert.pem")), topic)
    assert (counts.answered, counts.sent) == (1, 1)


async def test_tls_that_nobody_vouches_for(broker, topic, tls):
    """A certificate that nobody vouches for ends the start, with the reason and the setting."""
    refused = pytest.raises(SettingsError, match=r"certificate verify failed.*kafka\.tls_ca")
    with Proxy(broker.bootstrap, tls=tls) as proxy, refused:
        await echoed_start(KafkaSettings(brokers=proxy.brokers, protocol="ssl"), topic)


@pytest.mark.parametrize("secure", [True, False])
async def test_sasl(broker, topic, certificate, tls, secure):
    """With user and password the broker lets us in, with and without TLS below."""
    ca = str(certificate / "cert.pem") if secure else ""
    with Proxy(broker.bootstrap, tls=tls if secure else None, user=("ann", PASSWORD)) as proxy:
        counts = await echoed(KafkaSettings(brokers=proxy.brokers, username="ann", password=PASSWORD, tls_ca=ca), topic)
        assert proxy.tokens
    assert counts.answered == 1


async def test_sasl_refused(broker, topic, caplog):
    """A wrong password ends the start, and is told nowhere: not in the error, not in the log."""
    caplog.set_level("DEBUG")
    with Proxy(broker.bootstrap, user=("ann", "right")) as proxy:
        settings = KafkaSettings(brokers=proxy.brokers, username="ann", password=PASSWORD)
        with pytest.raises(SettingsError, match=r"kafka\.password") as caught:
            await echoed_start(settings, topic)
    assert PASSWORD not in str(caught.value) + repr(caught.value) + caplog.text


async def echoed_start(settings, topic):
    async def handle(record):
        return []

    pump = Pump(settings, topics=[topic], group=topic, handle=handle, counts=PumpCounts())
    try:
        await pump.start()
    finally:
        await pump.stop(0)


# -- the producer and topics --


def test_producer_without_a_broker():
    """Messages that nobody takes fail in time, with the broker and the cause, and closing tells those who still wait."""
    settings = KafkaSettings(brokers=f"127.0.0.1:{free_port()}")
    producer, told = Producer(settings), []
    producer.start()
    with pytest.raises(Temporary, match=rf"Kafka at {settings.brokers} did not take 1 messages in 1 s"):
        producer.deliver_now([Outgoing("t", b"1")], 1)
    producer.send(Outgoing("t", b"2"), told.append)
    producer.close(0.1)
    assert [type(each) for each in told] == [Temporary]


def test_producer_with_a_bound():
    """A message that waited longer than it may fails by itself."""
    settings = KafkaSettings(brokers=f"127.0.0.1:{free_port()}")
    producer = Producer(settings, delivery_seconds=0.5)
    producer.start()
    with pytest.raises(Temporary, match="cannot write to topic 't'"):
        producer.deliver_now([Outgoing("t", b"1")], 30)
    producer.close(0.1)


def test_full_queue(topics):
    """More messages than the library queues are all sent, in their order."""
    mine = topics(options=("queue.buffering.max.messages=50",)).make(partitions=1)
    mine.send([(b"%d" % number, b"k") for number in range(2000)])
    assert [int(each.value()) for each in mine.read(mine.input, 2000)] == list(range(2000))


def test_complaints_are_said_once_in_a_while():
    """A complaint that differs from the last in the try alone is not said again at once; another one is, and so is the
    same one later.
    """
    seldom = connection.Seldom(60)

    def said(text, at, level=logging.WARNING):
        record = logging.LogRecord("headrace.brokers.pump", level, "", 0, text, (), None)
        record.created = at
        return seldom.filter(record)

    refused = "FAIL [headrace#producer-{}] [thrd:h:1/bootstrap]: h:1: refused (after {}ms in state CONNECT)"
    assert said(refused.format(1, 0), 1000)
    assert not any(said(refused.format(at, at), 1000 + at) for at in range(1, 59))
    assert said("h:2: refused", 1001)
    assert said("h:1 answers", 1002, logging.INFO)
    assert said("h:1 answers", 1003, logging.INFO)
    assert said(refused.format(1, 1), 1061)
