"""A server over real sockets whose answers a test writes down."""

import json
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

DROP = object()
"""An answer of a script: close the connection without one."""


def doubled(request):
    """What a model answers that doubles each input: the rows of `x` as rows of `x`."""
    outputs = [
        {
            **each,
            "data": json.loads(
                json.dumps(each["data"]), parse_int=lambda n: 2 * int(n), parse_float=lambda n: 2 * float(n)
            ),
        }
        for each in request["inputs"]
    ]
    return {"model_name": "m", "id": request.get("id", ""), "outputs": outputs}


class Asked:
    """One request as it came."""

    def __init__(self, path, headers, body):
        self.path, self.headers, self.body = path, headers, body

    @property
    def request(self):
        return json.loads(self.body)

    @property
    def first(self):
        """The first number of the first input."""
        return self.request["inputs"][0]["data"][0]


class Scripted:
    """The server. `script(asked)` answers None (double it), (status, body), (status, body, headers), or DROP."""

    def __init__(self):
        self.asked = []
        self.script = lambda asked: None
        self.ready = lambda: 200
        self.connections = 0
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self):
                super().setup()
                scripted.connections += 1

            def do_GET(self):
                status = scripted.ready()
                self.reply(status, {"error": "the script says so"} if status >= 400 else {"ready": True})

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                asked = Asked(self.path, self.headers, body)
                scripted.asked.append(asked)
                answer = scripted.script(asked)
                if answer is DROP:
                    self.close_connection = True
                    return
                if answer is None:
                    answer = 200, doubled(asked.request)
                self.reply(*answer)

            def reply(self, status, body, headers=()):
                text = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in dict(headers).items():
                    self.send_header(name, value)
                if "Transfer-Encoding" in dict(headers):
                    text = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (text[:7], text[7:])) + b"0\r\n\r\n"
                elif dict(headers).get("Connection") != "close":
                    self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *args):
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, request, client_address):
                if not isinstance(sys.exc_info()[1], ConnectionError):  # clients here are killed and give up
                    super().handle_error(request, client_address)

        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def server():
    """A scripted server that doubles unless told otherwise."""
    with Scripted() as running:
        yield running


@pytest.fixture
def drop():
    """The answer that closes the connection."""
    return DROP


@pytest.fixture
def unused_url():
    """An address at which nobody listens, for as long as the test runs."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"
