"""Pictures of the dashboards, from what incidents of the lab left in a real Prometheus.

There is no Grafana in them: a headless Chromium draws the panels with Grafana's published UI library, and those that
the library lacks (state timelines, heatmaps, node graphs) with shapes of our own.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grafana.asking import Shown, asked
from grafana.replay import Replay, replayed, selected

HERE = Path(__file__).parent
SAID = (
    "Real answers of a Prometheus that watched the lab; panels drawn with Grafana's UI library 13.2, not by a Grafana"
)


@dataclass(frozen=True, slots=True)
class Picture:
    name: str
    """Of its file."""
    board: str
    """The uid of a page."""
    incident: str
    """Of the lab's, one of which the page has much to tell."""
    row: str = ""
    """Only the row whose title begins so."""


PICTURES = (
    Picture("overview", "fabric-overview", "line-card-mtu"),
    Picture("job", "fabric-job", "line-card-mtu"),
    Picture("path", "fabric-path", "lossy-carrier"),
    Picture("link", "fabric-link", "line-card-mtu"),
    Picture("switch", "fabric-switch", "pfc-deadlock"),
    Picture("host", "fabric-host", "pfc-deadlock"),
    Picture("rdma", "fabric-rdma", "pfc-deadlock"),
    Picture("dns", "fabric-dns", "dns-burst"),
    Picture("transit", "fabric-transit", "lossy-carrier"),
    Picture("exporters", "fabric-exporters", "switch-offline"),
    Picture("incidents-pfc", "fabric-incidents", "pfc-deadlock", "PFC"),
    Picture("incidents-mtu", "fabric-incidents", "line-card-mtu", "A small MTU"),
    Picture("incidents-transit", "fabric-incidents", "lossy-carrier", "A route"),
    Picture("incidents-dns", "fabric-incidents", "dns-burst", "A resolver"),
    Picture("incidents-bgp", "fabric-incidents", "bgp-incast", "Sessions"),
)
SEED = 7
_WIDTH = 1440
_ROW, _HEAD = 38, 92
"""Pixels of a row of Grafana's grid with its gap, and of what stands above (page.jsx)."""
_SECONDS_TO_DRAW = 20


def build(directory: Path) -> Path:
    """The script that draws, from the sources beside this; installs the libraries that package.json names once.

    Raise CalledProcessError where npm or the bundler fails.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for each in ("package.json", "page.jsx", "fields.js", "shapes.jsx", "scrollbars.js"):
        shutil.copy(HERE / each, directory / each)
    if not (directory / "node_modules/@grafana/ui").is_dir():
        quietly = ["--no-package-lock", "--ignore-scripts", "--legacy-peer-deps", "--no-audit", "--no-fund"]
        subprocess.run(["npm", "install", *quietly], cwd=directory, check=True)
        subprocess.run(["npm", "rebuild", "esbuild"], cwd=directory, check=True)
    words = [str(directory / "node_modules/.bin/esbuild"), "page.jsx", "--bundle", "--minify"]
    words += ["--format=iife", "--jsx=automatic"]
    words += [f"--loader:.{kind}=dataurl" for kind in ("svg", "png", "woff2", "ttf")]
    words += ["--define:global=window", '--define:process.env.NODE_ENV="production"', "--external:fs"]
    words += ["--alias:react-custom-scrollbars-2=./scrollbars.js"]
    words += ["--define:process.env.STORYBOOK_TEST_MODE=undefined", "--conditions=browser,module"]
    subprocess.run([*words, "--log-level=error", "--outfile=page.js"], cwd=directory, check=True)
    return directory / "page.js"


def play(incident: str, output: Path) -> None:
    """Have the lab play it under watch, with a while before and after, unless ``output`` has that already."""
    if (output / "report.json").exists():
        return
    words = [sys.executable, "-m", "lab", "watch", incident, "--seed", str(SEED), "--output", str(output), "--keep"]
    subprocess.run([*words, "--quiet", "60", "--resolved", "20"], check=True)


def page(board: Mapping[str, Any], replay: Replay, shown: Shown, at: float, row: str = "") -> dict[str, Any]:
    """What the script draws: the panels of a page, or of one of its rows, with Prometheus' answers as of ``at``."""
    chosen = selected(replay, board, at)
    answers = [replay.ask(each, at, shown) for each in asked(board, chosen, shown)]
    panels, within = [], not row
    for panel in board["panels"]:
        told = [answers.pop(0) for _ in panel.get("targets", ())]
        for _ in (target for inner in panel.get("panels", ()) for target in inner["targets"]):
            answers.pop(0)  # of a row that is closed
        if row and panel["type"] == "row":
            within = panel["title"].startswith(row)
        if within:
            panels.append({"panel": panel, "answers": told})
    top = panels[0]["panel"]["gridPos"]["y"]
    for each in panels:
        each["panel"] = each["panel"] | {
            "gridPos": each["panel"]["gridPos"] | {"y": each["panel"]["gridPos"]["y"] - top}
        }
    names = [each["name"] for each in board["templating"]["list"] if not each.get("hide")]
    words = {name: chosen.get(name, "Prometheus" if name == "datasource" else "All") for name in names}
    return {
        "board": {"title": board["title"]}, "chosen": words, "from": at - shown.seconds, "to": at, "step": shown.step,
        "panels": panels, "said": SAID,
    }  # fmt: skip


def draw(script: Path, told: Mapping[str, Any], picture: Path) -> None:
    """Raise RuntimeError where a panel could not be drawn."""
    places = [each["panel"]["gridPos"] for each in told["panels"]]
    height = _HEAD + _ROW * max(place["y"] + place["h"] for place in places)
    with tempfile.TemporaryDirectory() as directory:
        html = Path(directory) / "page.html"
        document = json.dumps(told).replace("<", "\\u003c")
        style, drawing = (script.with_suffix(each).resolve().as_uri() for each in (".css", ".js"))
        html.write_text(
            f'<!doctype html><meta charset="utf-8"><link rel="stylesheet" href="{style}"><body><div id="page"></div>'
            f'<script>window.PAGE = {document}</script><script src="{drawing}"></script>'
        )
        words = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--lang=en"]
        words += [f"--user-data-dir={directory}/profile", f"--virtual-time-budget={_SECONDS_TO_DRAW * 1000}"]
        words += [f"--window-size={_WIDTH},{height}", "--enable-logging=stderr", "--v=0"]
        done = subprocess.run(
            [*words, f"--screenshot={picture.resolve()}", html.as_uri()], capture_output=True, text=True, timeout=120,
            check=False,
        )  # fmt: skip
    errors = [line for line in done.stderr.splitlines() if "Uncaught" in line]
    if done.returncode or errors or not picture.exists():
        raise RuntimeError(f"{picture.name}: {errors or done.stderr[-2000:]}")


def draw_all(pictures: Sequence[Picture], boards: Path, work: Path, output: Path) -> Iterator[Path]:
    """Draw each to ``output``; ``work`` keeps libraries and what incidents left, for the next time."""
    script = build(work / "page")
    output.mkdir(parents=True, exist_ok=True)
    for incident in sorted({each.incident for each in pictures}):
        played = work / incident
        play(incident, played)
        times = json.loads((played / "report.json").read_text())["times"]
        shown = Shown(seconds=round(times["repaired"] - times["begin"]), step=1, scrape=1)
        with replayed(played / "run/monitoring/prometheus", work / "replay") as replay:
            for each in (each for each in pictures if each.incident == incident):
                board = json.loads((boards / f"{each.board}.json").read_text())
                file = output / f"{each.name}.png"
                draw(script, page(board, replay, shown, times["repaired"], each.row), file)
                yield file
