"""The command: from options to an exit code."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from contextlib import suppress

import msgspec

from exporter.contracts.codec import ContractError
from exporter.probe.enumerate import Enumerator, lines
from exporter.probe.multipath import Multipath
from exporter.probe.request import Request, read_request
from exporter.probe.session import Session
from exporter.probe.verdict import problems
from exporter.probe.views import view_for

_SHOW_SECONDS = 0.2


def run(options: argparse.Namespace) -> int:
    """Probe and show. 0: every path answered within the thresholds; 1: not so; 2: an RDMA device has gone.

    Raise ContractError for wrong usage.
    """
    request = read_request(options)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal without the bars' characters still shows the numbers
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # timeout(1) ends it as Ctrl-C does
    if options.ecmp:
        return _enumerate(request, options)
    view = view_for(request, json=options.json, json_lines=options.json_lines)
    session = Session(request, keep_samples=view.keeps_samples)
    started = time.monotonic()
    session.start()
    trouble: list[str] = []
    try:
        try:
            while not session.wait(_SHOW_SECONDS):
                view.show(session)
        except KeyboardInterrupt:
            session.stop()
            with suppress(KeyboardInterrupt):  # a second one does not wait for what is under way
                session.wait(request.longest + _SHOW_SECONDS)
        except ContractError as error:  # an RDMA device that has gone: what was seen until then is worth showing
            trouble.append(str(error))
        found = problems(request, session.summaries())
        view.end(session, [*trouble, *found], time.monotonic() - started)
    except BrokenPipeError:  # | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at its end
        return 1
    return 2 if trouble else 1 if found else 0


def _enumerate(request: Request, options: argparse.Namespace) -> int:
    """Show all ways to each destination, one destination after the other. 1 where one answered no trace."""
    ports = list(dict.fromkeys(port for given in options.source_port for port in given))
    quiet = options.json or options.json_lines or not sys.stderr.isatty()
    answered = True
    try:
        for target in {target.destination_address: target for target in reversed(request.targets)}.values():
            enumerator = Enumerator(request, target, ports, options.max_flows, (lambda _: None) if quiet else _progress)
            interrupted = False
            try:
                enumerator.run()
            except KeyboardInterrupt:
                interrupted = True
            found = enumerator.result()
            answered = answered and found.reached > 0
            if options.json or options.json_lines:
                text = msgspec.json.encode(found)
                print((text if options.json_lines else msgspec.json.format(text)).decode(), flush=True)
            else:
                print("\n".join(lines(found)), flush=True)
            if interrupted:
                break
    except BrokenPipeError:  # | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0 if answered else 1


def _progress(ways: Multipath) -> None:
    print(f"\r{ways.flows} flows, {len(ways.routes)} ways\x1b[K\r", end="", file=sys.stderr, flush=True)
