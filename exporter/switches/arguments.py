"""The command line of ``fabric-exporter switch``. Needs nothing heavy: every command's ``--help`` imports it."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    coverage = commands.add_parser("coverage", help="which signals a switch tells, and what to turn on")
    _add_target(coverage)
    coverage.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    neighbors = commands.add_parser("neighbors", help="who is at the other end of each cable (LLDP), as JSON")
    _add_target(neighbors)


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="name in the configuration, or an address")
    parser.add_argument("--config", metavar="FILE", help="whose section switches names targets and says who asks them")
    parser.add_argument("--community-file", metavar="FILE", help="v2c, for addresses that are in no configuration")
    parser.add_argument("--port", type=int, help="of such an address; default: 161")
    parser.add_argument("--profile", metavar="NAME", help="read it by this profile, whatever it says of itself")
    parser.add_argument("--timeout", type=float, default=5.0, metavar="SECONDS", help="default: %(default)s")
