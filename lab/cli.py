"""The command ``python -m lab``."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from lab import faults, sandbox
from lab.errors import LabError
from lab.network import design as drawn
from lab.network import icmp, transit
from lab.running import Running


def _up(arguments: argparse.Namespace) -> int:
    running = Running(arguments.name)
    seed = random.SystemRandom().randrange(1_000_000) if arguments.seed is None else arguments.seed
    design = drawn.draw(
        seed,
        pods=arguments.pods,
        rails=arguments.rails,
        spines=arguments.spines,
        hosts_per_pod=arguments.hosts_per_pod,
        tenants=arguments.tenants,
    )
    if arguments.transit:
        design = transit.add(design)
    if arguments.icmp_rate < 0:
        raise LabError(f"--icmp-rate cannot be {arguments.icmp_rate}", "packets per second; 0 is any number")
    design = replace(design, icmp=arguments.icmp, icmp_rate=arguments.icmp_rate)
    start = time.monotonic()
    if not running.up(design, die_with_parent=arguments.foreground):
        print(f"lab {running.name!r} is up already, seed {running.design().seed}")
        return 0
    print(
        f"lab {running.name!r} is up in {time.monotonic() - start:.1f} s: seed {seed}, {len(design.hosts)} hosts, "
        f"{len(design.switches)} switches, {len(design.links)} links",
        flush=True,
    )
    if arguments.foreground:
        ends = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
        signal.pthread_sigmask(signal.SIG_BLOCK, ends)
        signal.sigwait(ends)
        running.down()
    return 0


def _down(arguments: argparse.Namespace) -> int:
    start = time.monotonic()
    was_up = Running(arguments.name).down()
    print(f"lab {arguments.name!r} " + (f"is down in {time.monotonic() - start:.1f} s" if was_up else "was not up"))
    return 0


def _status(arguments: argparse.Namespace) -> int:
    running = Running(arguments.name)
    record, design = running.need(), running.design()
    print(f"lab       {running.name}, up, seed {design.seed}, process {record.launcher.pid}")
    print(f"directory {running.directory}")
    print(f"size      {len(design.hosts)} hosts, {len(design.switches)} switches, {len(design.links)} links")
    dead = running.dead_daemons()
    print("daemons   " + (f"DEAD: {', '.join(dead)}" if dead else "alive"), flush=True)
    return _inside(running, ["status"])


def _exec(arguments: argparse.Namespace) -> int:
    running = Running(arguments.name)
    node = None if arguments.node == "-" else arguments.node
    argv = running.command(node, arguments.command)
    os.execve(argv[0], argv, sandbox.environment())  # noqa: S606 - becomes the command: its signals, its exit code


def _fault(arguments: argparse.Namespace) -> int:
    given = (
        getattr(arguments, f"value{number}", None) for number in range(len(faults.kind(arguments.kind).parameters))
    )
    values = [value for value in given if value is not None]
    return _inside(Running(arguments.name), ["fault", arguments.kind, arguments.target, *values])


def _heal(arguments: argparse.Namespace) -> int:
    return _inside(Running(arguments.name), ["heal", arguments.what])


def _counters(arguments: argparse.Namespace) -> int:
    return _inside(Running(arguments.name), ["counters", arguments.node])


def _resolver_cache(arguments: argparse.Namespace) -> int:
    return _inside(Running(arguments.name), ["resolver-cache", arguments.state])


def _inside(running: Running, words: Sequence[str]) -> int:
    argv = running.command(None, running.action(*words))
    return subprocess.run(argv, env=sandbox.environment(), check=False).returncode


def _topology(arguments: argparse.Namespace) -> int:
    import yaml  # noqa: PLC0415 - only this command writes YAML

    running = Running(arguments.name)
    document = msgspec.to_builtins(faults.Faults(running.design(), running.directory).topology())
    print(yaml.safe_dump(document, sort_keys=False, width=120), end="")
    return 0


def _run(arguments: argparse.Namespace) -> int:
    return int(importlib.import_module("lab.scenarios.outside").run(arguments))


def _watch(arguments: argparse.Namespace) -> int:
    return int(importlib.import_module("lab.scenarios.outside").watch(arguments))


def _replay(arguments: argparse.Namespace) -> int:
    return int(importlib.import_module("lab.scenarios.outside").replay(arguments))


def _scenarios(_: argparse.Namespace) -> int:
    for scenario in importlib.import_module("lab.scenarios.catalogue").scenarios():
        row = "incident" if scenario.row is None else f"row {scenario.row}"
        print(f"{scenario.name:<30} {row:<9} {scenario.title}")
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    return int(importlib.import_module("lab.demo").main(arguments))


def parser(with_demo: bool = False) -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m lab", description="The fabric in a box.")
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument("--name", default="lab", help="which lab; any number may be up side by side (default: lab)")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: object, text: str, *, of_a_lab: bool = True) -> argparse.ArgumentParser:
        command = commands.add_parser(name, parents=[named] if of_a_lab else [], help=text, description=text)
        command.set_defaults(run=run)
        return command

    up = add("up", _up, "bring a lab up in the background and return when its routing has converged")
    up.add_argument("--seed", type=int, help="draw this lab again (default: a new one)")
    up.add_argument("--pods", type=int, default=2, help="groups of hosts behind leaves of their own (default: 2)")
    up.add_argument("--rails", type=int, default=2, help="RNICs per host, leaves per pod (default: 2)")
    up.add_argument("--spines", type=int, default=2, help="each with a link to every leaf (default: 2)")
    up.add_argument("--hosts-per-pod", type=int, default=4, help="(default: 4)")
    up.add_argument(
        "--tenants", type=int, default=2, help="VXLAN networks, each with a container on every host (default: 2)"
    )
    up.add_argument("--transit", action="store_true", help="with a second site behind two carriers, and a resolver")
    help_icmp = "address of the switches' ICMP errors: of the port where the packet came in (default), of the loopback"
    up.add_argument("--icmp", choices=icmp.SOURCES, default="inbound", help=help_icmp + ", or no ICMP errors at all")
    help_rate = "packets per second, errors sent and echo requests taken each, that a switch's control plane allows"
    up.add_argument("--icmp-rate", type=int, default=icmp.RATE, help=help_rate + " (default: 100; 0: any number)")
    up.add_argument("--foreground", action="store_true", help="stay until a signal; the lab ends with this process")
    add("down", _down, "take a lab down; nothing of it stays")
    add("status", _status, "size, routing, dead daemons and active faults")
    execute = add("exec", _exec, "run a command on a host or switch, or, with NODE '-', in the lab beside them")
    execute.add_argument("node", metavar="NODE")
    execute.add_argument("command", metavar="COMMAND", nargs=argparse.REMAINDER)
    fault = add("fault", _fault, "break something")
    also = argparse.ArgumentParser(add_help=False)  # --name after the kind too; its absence there says nothing
    also.add_argument("--name", default=argparse.SUPPRESS, help="which lab (default: lab)")
    kinds = fault.add_subparsers(dest="kind", required=True, metavar="KIND")
    for kind in faults.kinds():
        command = kinds.add_parser(kind.name, parents=[also], help=kind.help, description=kind.help)
        command.add_argument("target", metavar=kind.target.upper().replace(" ", "_"))
        for number, parameter in enumerate(kind.parameters):
            unit = f", {parameter.unit}" if parameter.unit else ""
            if parameter.choices:
                unit = f": {', '.join(parameter.choices)}"
            default = "" if parameter.default is None else f" (default: {faults.number(parameter.default)})"
            command.add_argument(
                f"value{number}",
                metavar=parameter.name.upper(),
                nargs="?" if default else None,
                help=f"{parameter.help}{unit}{default}".replace("%", "%%"),
            )
    heal = add("heal", _heal, "mend all faults, or those of one link or port, or one by name")
    heal.add_argument("what", nargs="?", default="all", metavar="FAULT")
    counters = add("counters", _counters, "the counters of a host or switch that are not 0: PFC, ECN, queues, RNIC")
    counters.add_argument("node", metavar="NODE")
    cache = add("resolver-cache", _resolver_cache, "a caching resolver on every host: what mends an overwhelmed one")
    cache.add_argument("state", choices=("on", "off"))
    add("topology", _topology, "print the lab's topology file")
    add("scenarios", _scenarios, "list the scenarios that `run` knows", of_a_lab=False)
    run = add("run", _run, "play a scenario on a fresh lab and record it with its truth", of_a_lab=False)
    run.add_argument("scenario", metavar="SCENARIO", help="its name, or all")
    run.add_argument("--seed", type=int, help="play the same one again (default: a new one)")
    run.add_argument("--output", type=Path, metavar="DIRECTORY", help="where its files go (default: SCENARIO-SEED)")
    watch = add(
        "watch", _watch, "play a scenario under Prometheus and Alertmanager and judge the alerts", of_a_lab=False
    )
    watch.add_argument("scenario", metavar="SCENARIO", help="its name; the five incidents have alerts of their own")
    watch.add_argument("--seed", type=int, help="play the same one again (default: a new one)")
    watch.add_argument("--output", type=Path, metavar="DIRECTORY", help="(default: watch-SCENARIO-SEED)")
    watch.add_argument("--quiet", type=float, metavar="S", help="without any alert before the injection (default: 20)")
    watch.add_argument("--during", type=float, metavar="S", help="to the repair (default: the scenario's)")
    watch.add_argument("--moved", action="store_true", help="write down which series moved, to write rules on")
    watch.add_argument("--keep", action="store_true", help="logs and what Prometheus stored too, if all went well")
    watch.add_argument("--resolved", type=float, metavar="S", help="to wait for the end of the alerts (default: 60)")
    replay = add("replay", _replay, "diagnose what `run` recorded and compare with the truth", of_a_lab=False)
    replay.add_argument("directory", type=Path)
    if importlib.util.find_spec("lab.demo") is not None:
        demo = add("demo", _demo, "the main job on a fresh lab, from packets to a notification")
        if with_demo:  # the demonstration brings in the whole project: only when it is asked for
            importlib.import_module("lab.demo").add_arguments(demo)
    return top


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code. 2 is a wrong request, explained in one line."""
    words = sys.argv[1:] if words is None else words
    try:
        arguments = parser(with_demo="demo" in words[:1]).parse_args(words)
        if getattr(arguments, "command", None) == []:
            raise LabError("exec needs a command", "python -m lab exec NODE COMMAND")
        code = int(arguments.run(arguments))
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader, `head` perhaps, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("lab: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 2
