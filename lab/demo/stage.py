"""The inside of the demo: takes the story's sockets and seed, tells it, shows the verdict, keeps it up on request."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape

from exporter.contracts.codec import ContractError
from lab.demo.story import Story
from lab.errors import LabError
from lab.jobs.workloads import NAMES, SYNTHETIC
from lab.narrator import Narrator
from lab.sandbox import environment


def report(story: Story) -> dict[str, object]:
    return {
        "seed": story.seed,
        "seconds": round(story.narrator.elapsed, 1),
        "steps": [
            {"name": step.name, "detail": step.detail, "seconds": round(step.seconds, 2), "done": step.done}
            for step in story.narrator.steps
        ],
        "faults": [
            {
                "fault": each.fault,
                "injected": each.injected,
                "alert": each.alert,
                "service": each.service,
                "seconds_to_notification": round(each.seconds_to_notification, 2),
                "right": each.right,
            }
            for each in story.judged
        ],
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab.demo.stage", description=__doc__)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--forward", action="append", default=[], metavar="FD=ADDRESS:PORT")
    parser.add_argument("--url", action="append", default=[], metavar="NAME=URL")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--workload", choices=NAMES, default=SYNTHETIC)
    parser.add_argument("--report", type=Path)
    return parser


def main(words: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(words)
    narrator = Narrator()
    urls = dict(word.split("=", 1) for word in arguments.url)
    story = Story(arguments.directory, arguments.seed, narrator, urls.get("Prometheus", ""), arguments.workload)
    descriptors = [int(mapping.partition("=")[0]) for mapping in arguments.forward]
    forwarder = subprocess.Popen(
        [sys.executable, "-m", "lab.demo.forward", *arguments.forward], pass_fds=descriptors, env=environment()
    )
    for name, url in urls.items():
        narrator.console.print(f"[dim]{name:<13} {url}[/]")
    code = 1
    try:
        story.tell()
        code = 0 if story.judged and all(each.right for each in story.judged) else 1
    except (LabError, ContractError, OSError, subprocess.SubprocessError) as error:
        narrator.console.print(f"[red]stopped:[/] {escape(str(error))}", soft_wrap=True)
    finally:
        if story.judged:
            narrator.verdict([(j.fault, j.injected, j.alert, j.service, j.right) for j in story.judged])
        result = "the right links were named" if code == 0 else "FAILED"
        narrator.console.print(f"[bold]{result}[/] in {narrator.elapsed:.0f} s (seed {arguments.seed})")
        if arguments.report is not None:
            arguments.report.write_text(json.dumps(report(story), indent=2) + "\n")
        if arguments.keep:
            _keep(narrator)
        forwarder.terminate()
        story.receiver.close()
        story.lab.down()
    return code


def _keep(narrator: Narrator) -> None:
    narrator.console.print("Everything stays up. Ctrl-C ends it.")
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        narrator.console.print("down")


if __name__ == "__main__":
    sys.exit(main())
