"""Runs a command for a while, then ends it: ``python -m benchmarks.measured_command SECONDS SIGNAL COMMAND...``.

Prints JSON: ``seconds`` of processor time that the kernel charged the command, ``output`` and ``errors`` of it.
With ``--ask URL --period SECONDS`` before them it also reads ``URL`` so often, and gives ``answers``.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import subprocess
import sys
import tempfile
import time
from urllib.request import urlopen


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.measured_command", description=__doc__)
    parser.add_argument("--ask", help="URL to read")
    parser.add_argument("--period", type=float, default=1.0)
    parser.add_argument("seconds", type=float)
    parser.add_argument("signal")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    answers: list[str] = []
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(arguments.command, stdout=output, stderr=errors)
        if arguments.ask:
            time.sleep(1.0)  # until it listens
        due = time.monotonic()
        ends = due + arguments.seconds
        while time.monotonic() < ends and process.poll() is None:
            due += arguments.period
            if arguments.ask:
                with urlopen(arguments.ask, timeout=10) as answer:  # noqa: S310 - the benchmark's own
                    answers.append(answer.read().decode())
            time.sleep(max(0.0, min(due, ends) - time.monotonic()))
        process.send_signal(signal.Signals[arguments.signal])
        process.wait()
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        for file in (output, errors):
            file.seek(0)
        told = {"seconds": spent.ru_utime + spent.ru_stime, "answers": answers}
        json.dump({**told, "output": output.read(), "errors": errors.read()}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
