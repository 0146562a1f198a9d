"""``python -m lab.guest``: a command in a guest, by hand.

python -m lab.guest run ip link             in the guest, on this machine's files; exits with the command's code
python -m lab.guest run --virtual-time date
python -m lab.guest prepare                 have a kernel and pyverbs ready, or say what is missing
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import sysconfig
from pathlib import Path

from lab.errors import LabError
from lab.guest import kernel
from lab.guest.machine import Guest

PYVERBS = Path("/usr/lib/python3/dist-packages/pyverbs")
"""Debian's, which scripts/setup links into the virtual environment: compiled for Debian's version of Python."""


def _run(arguments: argparse.Namespace) -> int:
    with Guest(arguments.argv, kernel.find(), virtual_time=arguments.virtual_time, memory_mb=arguments.memory) as guest:
        return guest.wait(arguments.timeout)


def _prepare(_arguments: argparse.Namespace) -> int:
    trial = subprocess.run([sys.executable, "-c", "import pyverbs.device"], capture_output=True, text=True, check=False)
    if trial.returncode:
        version = f"Python {sys.version_info.major}.{sys.version_info.minor}"
        if PYVERBS.is_dir() and not (PYVERBS / f"device{sysconfig.get_config_var('EXT_SUFFIX')}").exists():
            print(f"RDMA tests are skipped: Debian's pyverbs is not for {version} (make PYTHON=/usr/bin/python3)")
            return 0
        reason = (trial.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise LabError(f"pyverbs cannot be imported: {reason}", "scripts/setup installs it")
    chosen = kernel.find(build=True)
    print(f"RDMA tests run on {'User-Mode Linux' if chosen.machine == 'uml' else 'QEMU'}: {chosen.path}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.guest", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="run a command in a guest")
    run.add_argument("--virtual-time", action="store_true", help="the clock moves only while all processes wait")
    run.add_argument("--timeout", type=float, default=600, metavar="SECONDS", help="end it after so long (600)")
    run.add_argument("--memory", type=int, default=512, metavar="MB", help="of the guest (512)")
    run.add_argument("argv", nargs=argparse.REMAINDER, metavar="COMMAND")
    run.set_defaults(call=_run)
    prepare = commands.add_parser("prepare", help="have a kernel and pyverbs ready, or say what is missing")
    prepare.set_defaults(call=_prepare)
    arguments = parser.parse_args()
    if arguments.call is _run and not arguments.argv:
        run.error("which command?")
    try:
        return int(arguments.call(arguments))
    except LabError as error:
        print(f"lab.guest: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
