"""The command: from options to an exit code."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from contextlib import suppress

from exporter.probe.request import read_request
from exporter.probe.session import Session
from exporter.probe.verdict import problems
from exporter.probe.views import view_for

_SHOW_SECONDS = 0.2


def run(options: argparse.Namespace) -> int:
    """Probe and show. 0: every path answered within the thresholds; 1: not so. Raise ContractError for wrong usage."""
    request = read_request(options)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal without the bars' characters still shows the numbers
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # timeout(1) ends it as Ctrl-C does
    view = view_for(request, json=options.json, json_lines=options.json_lines)
    session = Session(request, keep_samples=view.keeps_samples)
    started = time.monotonic()
    session.start()
    try:
        try:
            while not session.wait(_SHOW_SECONDS):
                view.show(session)
        except KeyboardInterrupt:
            session.stop()
            with suppress(KeyboardInterrupt):  # a second one does not wait for what is under way
                session.wait(request.longest + _SHOW_SECONDS)
        found = problems(request, session.summaries())
        view.end(session, found, time.monotonic() - started)
    except BrokenPipeError:  # | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at its end
        return 1
    return 1 if found else 0
