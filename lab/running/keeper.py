"""What runs inside a background lab: brings the fabric up, says so through a pipe, and watches over it."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from lab.errors import LabError
from lab.network import design as drawn
from lab.network.fabric import Lab

WATCH_SECONDS = 1.0


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


def main() -> int:
    directory, answer = Path(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(answer, False)
    signal.signal(signal.SIGTERM, _stop)
    lab = Lab(drawn.load((directory / "design.json").read_bytes()), directory)
    try:
        lab.up()
        lab.wait_converged()
    except LabError as error:
        os.write(answer, str(error).encode()[:4000])
        return 1
    os.write(answer, b"ready")
    os.close(answer)
    dead: set[str] = set()
    while True:
        # A daemon that died is reported, not restarted: a lab must not hide what it is there to show.
        for name, code in lab.dead_daemons().items():
            if name not in dead:
                dead.add(name)
                print(f"{name} ended with code {code}", flush=True)
                (directory / "dead").write_text("".join(f"{name}\n" for name in sorted(dead)))
        time.sleep(WATCH_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
