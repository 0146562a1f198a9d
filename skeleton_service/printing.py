"""Standard output, which may be closed before all is said: ``| head -1``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable


def say(lines: Iterable[str]) -> None:
    """Print lines; end quietly where nobody reads on. What is to be done is done before, the exit code stands."""
    try:
        for line in lines:
            print(line)
        sys.stdout.flush()
    except BrokenPipeError:  # the interpreter flushes once more as it ends, and would complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
