"""Serves a fabric's pages: ``python -m benchmarks.rule_feed --paths N --targets N --rules DIRECTORY``.

Target n is ``/n`` on the port that the first line of standard output tells, after the number of series.
"""

from __future__ import annotations

import argparse
import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from benchmarks.rule_fabric import fabric
from benchmarks.rule_series import names_in, pages


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rule_feed", description=__doc__)
    parser.add_argument("--paths", type=int, required=True)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--targets", type=int, required=True)
    parser.add_argument("--rules", type=Path, required=True, help="rules whose metrics are served")
    options = parser.parse_args()
    named = names_in(path.read_text() for path in options.rules.iterdir())
    made, missing = pages(fabric(options.paths, options.jobs), named, options.targets)
    began = time.time()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            now = time.time()
            body = made[int(self.path.lstrip("/").partition("?")[0])].render(now, now - began)
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *args: object) -> None:
            """A Prometheus that ends in the middle of a scrape is no error of the feed's."""

    with Server(("127.0.0.1", 0), Handler) as server:
        told = {"port": server.server_port, "series": sum(page.series for page in made), "missing": missing}
        print(json.dumps(told), flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
