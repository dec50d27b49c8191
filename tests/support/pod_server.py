"""A pod for tests: answers `GET /health` at `$POD_IP:$PORT`; `POST /exit` ends it, `POST /unready`, back."""

import os
import signal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

if os.environ.get("STUBBORN"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class Handler(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(Handler.status)
        self.end_headers()

    def do_POST(self) -> None:
        if self.path == "/exit":
            os._exit(1)
        Handler.status = 503 if self.path == "/unready" else 200
        self.do_GET()


ThreadingHTTPServer((os.environ["POD_IP"], int(os.environ["PORT"])), Handler).serve_forever()
