"""Receivers of webhooks and events: a real HTTP server on a thread, which answers as a test wants."""

import contextlib
import http.server
import threading


class Receiver:
    """`received` has (headers, body) of each POST that was answered 2xx; `seen` counts all."""

    def __init__(self, port=0):
        self.received, self.seen, self.answers = [], 0, []
        self.delay = threading.Event()
        self.delay.set()
        self.changed = threading.Condition()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.delay.wait(60)
                with outer.changed:
                    outer.seen += 1
                    status, headers = outer.answers.pop(0) if outer.answers else (204, {})
                    if 200 <= status < 300:
                        outer.received.append(({name.lower(): value for name, value in self.headers.items()}, body))
                    outer.changed.notify_all()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, request, client_address):
                pass  # a sender that was killed

        self.server = Server(("127.0.0.1", port), Handler)
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def wait(self, count, timeout=60):
        """Until so many arrived."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.received) >= count, timeout), self.received
            return list(self.received)

    def wait_seen(self, count, timeout=60):
        with self.changed:
            assert self.changed.wait_for(lambda: self.seen >= count, timeout), self.seen

    def close(self):
        self.delay.set()
        self.server.shutdown()
        self.thread.join(60)
        self.server.server_close()


@contextlib.contextmanager
def receiver(port=0):
    made = Receiver(port)
    try:
        yield made
    finally:
        made.close()
