"""The far end of the alert: a webhook receiver that keeps what Alertmanager sends."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Notification:
    """One alert of one webhook call."""

    received: float
    """Seconds since the epoch."""
    status: str
    """``firing`` or ``resolved``."""
    labels: dict[str, str]
    annotations: dict[str, str]
    group: str = ""
    """Key of Alertmanager's group: what is told in one message has one key."""
    receiver: str = ""
    """Name of Alertmanager's receiver."""

    @property
    def name(self) -> str:
        return self.labels.get("alertname", "")

    @property
    def component(self) -> str:
        return self.labels.get("component", "")


class Receiver:
    """Serves until closed; ``wait`` blocks for a notification."""

    def __init__(self, port: int) -> None:
        self.notifications: list[Notification] = []
        self._arrived = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_POST(self) -> None:
                body = self.rfile.read(min(int(self.headers.get("Content-Length", 0)), MAX_BYTES))
                receiver.accept(json.loads(body), time.time())
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
                """What arrives is shown by whoever waits for it."""

        self._http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        threading.Thread(target=self._http.serve_forever, name="webhook", daemon=True).start()

    def accept(self, message: dict[str, Any], now: float) -> None:
        with self._arrived:
            whose = str(message["groupKey"]), str(message["receiver"])
            for alert in message["alerts"]:
                self.notifications.append(
                    Notification(now, alert["status"], alert["labels"], alert["annotations"], *whose)
                )
            self._arrived.notify_all()

    def wait(self, wanted: Callable[[Notification], bool], timeout: float, since: int = 0) -> Notification | None:
        """Return the first notification numbered ``since`` or later that is ``wanted``; None after ``timeout`` s."""
        deadline = time.monotonic() + timeout
        with self._arrived:
            while True:
                for notification in self.notifications[since:]:
                    if wanted(notification):
                        return notification
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                self._arrived.wait(left)

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
