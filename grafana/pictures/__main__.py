"""Draw pictures of the dashboards: ``python -m grafana.pictures [NAME...]``.

Needs npm, a Chromium and what the lab needs; see docs/dashboards.md.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from grafana.__main__ import DIRECTORY
from grafana.pictures import PICTURES, draw_all

_ROOT = Path(__file__).parents[2]


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m grafana.pictures", description=__doc__)
    names = [each.name for each in PICTURES]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}; default: all")
    parser.add_argument("--work", type=Path, default=_ROOT / ".cache/pictures", metavar="DIRECTORY")
    parser.add_argument("--output", type=Path, default=_ROOT / "docs/pictures", metavar="DIRECTORY")
    options = parser.parse_args(words)
    if unknown := set(options.names) - set(names):
        parser.error(f"no such picture: {', '.join(sorted(unknown))}")
    if missing := [name for name in ("npm", "chromium") if shutil.which(name) is None]:
        parser.error(f"{' and '.join(missing)} not found: install Debian's packages npm and chromium")
    chosen = [each for each in PICTURES if not options.names or each.name in options.names]
    for picture in draw_all(chosen, DIRECTORY, options.work, options.output):
        print(picture, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
