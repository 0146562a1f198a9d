"""fabric-exporter: the command."""

from __future__ import annotations

import argparse
import os
import sys

from exporter import __version__
from exporter.contracts.codec import ContractError
from exporter.contracts.strict import Parser
from exporter.probe.arguments import add_arguments
from exporter.switches.arguments import add_arguments as add_switch_arguments


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="fabric-exporter", description="Measures a training fabric: probes, NIC and switch counters.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    run = commands.add_parser("run", help="run until a signal says stop")
    run.add_argument("--config", required=True, metavar="FILE")
    run.add_argument(
        "--host", metavar="NAME", help="as the topology has this one: instead of the configuration's 'host'"
    )
    check = commands.add_parser("check-config", help="read a configuration and say what is wrong with it")
    check.add_argument("config", metavar="FILE")
    add_arguments(commands.add_parser("probe", help="probe paths from here now, as mtr and fping do"))
    add_switch_arguments(commands.add_parser("switch", help="what a switch can tell, and what hangs off it"))
    metrics = commands.add_parser("metrics", help="print the reference of every metric")
    metrics.add_argument("--format", choices=("markdown", "json"), default="markdown")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Exit 0 on success, 2 on bad input with one line that names the file, the field and the remedy.

    ``probe`` also exits 1: some destination did not answer within the thresholds.
    """
    options = _parser().parse_args(arguments)
    # Imported late: --help and metrics need none of it, and each process only its own.
    if options.command == "metrics":
        from exporter import metricspage  # noqa: PLC0415

        print(metricspage.markdown() if options.format == "markdown" else metricspage.as_json(), end="")
        return 0
    try:
        if options.command == "probe":
            from exporter.probe.command import run as probe  # noqa: PLC0415

            return probe(options)
        if options.command == "switch":
            from exporter.switches.command import run as look  # noqa: PLC0415

            return look(options)
        from exporter.config import read_config  # noqa: PLC0415
        from exporter.remarks import remarks  # noqa: PLC0415

        config = read_config(options.config, getattr(options, "host", None))
        for remark in remarks(config):
            print(f"{options.config}: {remark}", file=sys.stderr)
        if options.command == "check-config":
            print(f"{options.config}: good")
            return 0
        from exporter.control import run  # noqa: PLC0415

        run(config)
    except BrokenPipeError:  # | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at its end
        return 1
    except ContractError as error:
        print(f"fabric-exporter: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
