"""skeleton-service: the command. Every step reads and writes the file contracts, so that CI can run each alone."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import signal
import sys
import time
from collections.abc import Sequence, Set
from contextlib import suppress
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, NoReturn

from exporter.contracts.codec import ContractError, encode, write
from exporter.contracts.fabric import Fabric
from exporter.contracts.skeleton import Skeleton, read_skeleton
from exporter.contracts.strict import Parser
from exporter.contracts.topology import Topology, read_topology
from skeleton_service import __version__, rulescommand
from skeleton_service.jobs import command as jobs_command
from skeleton_service.lint import command as lint_command

if TYPE_CHECKING:
    from skeleton_service.reading.prometheus import Window


def _infer(options: argparse.Namespace) -> int:
    from skeleton_service.inference import basic, infer  # noqa: PLC0415
    from skeleton_service.reading.prometheusapi import PREFIX  # noqa: PLC0415
    from skeleton_service.reading.throughput import read_throughput  # noqa: PLC0415

    window = _window(options)
    if window is not None and not any(source.startswith(PREFIX) for source in options.throughput):
        problem = "--window, --step, --end and --prometheus-token-file are for prometheus:URL alone"
        raise ContractError("--throughput", problem, "leave them out")
    topology = read_topology(options.topology)
    throughput = read_throughput(options.throughput, job=options.job, window=window)
    if options.basic and options.previous:
        raise ContractError("--previous", "has no meaning with --basic", "leave one of them out")
    previous = read_skeleton(options.previous) if options.previous else None
    try:
        skeleton = basic(throughput, topology) if options.basic else infer(throughput, topology, previous)
    except ContractError as error:  # a value does not know its file
        files = {"topology": options.topology, "throughput": ", ".join(options.throughput)}
        raise ContractError(files.get(error.source, error.source), error.problem, error.remedy) from error
    write(options.output, encode(skeleton))
    parallelism = skeleton.parallelism
    shape = f"dp {parallelism.dp} x pp {parallelism.pp}" if parallelism and not skeleton.fallback else "no structure"
    if previous is not None and skeleton.edges == previous.edges and skeleton.groups == previous.groups:
        shape += ", as before"
    elif parallelism and parallelism.dp > 1 and any(endpoint.replica is None for endpoint in skeleton.endpoints):
        shape += ", replicas not told apart"
    print(
        f"{options.output}: job {skeleton.job}, {len(skeleton.endpoints)} endpoints, {shape}, "
        f"{skeleton.pair_count()} pairs, confidence {skeleton.confidence:.2f}"
    )
    return 0


def _window(options: argparse.Namespace) -> Window | None:
    """What to ask Prometheus for; None where no option says."""
    from skeleton_service.reading.prometheus import Window  # noqa: PLC0415

    given = {
        "seconds": options.window,
        "step_seconds": options.step,
        "end": options.end,
        "token_file": options.prometheus_token_file,
    }
    said = {name: value for name, value in given.items() if value is not None}
    return Window(**said) if said else None


def _plan(options: argparse.Namespace) -> int:
    from skeleton_service.planning.plan import Settings, draft  # noqa: PLC0415

    topology = read_topology(options.topology)
    made = draft(
        _planned_skeleton(options, topology),
        topology,
        phase=options.phase,
        generation=options.generation if options.generation is not None else int(time.time()),
        expires=time.time() + options.valid_seconds,
        settings=Settings(
            probes=frozenset(options.probe),
            path_probability=options.coverage,
            max_paths=options.max_paths,
            exploration=options.exploration,
            rotation=options.rotation,
            traffic_class=options.traffic_class,
            default_traffic_class=options.default_traffic_class,
        ),
    )
    if options.split_by_host:
        directory = Path(options.output)
        directory.mkdir(parents=True, exist_ok=True)
        for host, part in made.by_host():
            write(directory / _file_of(host), encode(part))
    else:
        write(options.output, encode(made.whole()))
    coverage = made.head.coverage
    print(
        f"{options.output}: {made.paths} paths"
        + (f" over {coverage.pairs_probed} of {coverage.pairs_total} pairs" if coverage else "")
    )
    for links in coverage.links_ambiguous if coverage else ():
        print(f"no probe of this job can tell apart: {'; '.join(links)}", file=sys.stderr)
    return 0


def _planned_skeleton(options: argparse.Namespace, topology: Topology) -> Skeleton:
    """The skeleton given; without one, all that a preload list needs: the RNICs of the job's hosts."""
    from skeleton_service.planning.preload import read_hosts, unobserved  # noqa: PLC0415

    if options.skeleton is not None:
        for option in ("job", "hosts"):
            if getattr(options, option) is not None:
                raise ContractError(f"--{option}", "is of no use with --skeleton, which names it", "leave one out")
        return read_skeleton(options.skeleton)
    if options.phase == "skeleton":
        remedy = "or --phase preload, which plans every pair of a rail"
        raise ContractError("--skeleton", "is missing, and phase skeleton is planned from it", remedy)
    if options.job is None:
        raise ContractError("--job", "is missing, and no --skeleton names the job", "name the job")
    return unobserved(options.job, topology, None if options.hosts is None else read_hosts(options.hosts))


def _file_of(host: str) -> str:
    if "/" in host or host.startswith("."):
        raise ContractError("topology", f"host {host!r} cannot name a file", "plan without --split-by-host")
    return f"{host}.json"


def _diagnose(options: argparse.Namespace) -> int:
    from skeleton_service.diagnosis import diagnose  # noqa: PLC0415
    from skeleton_service.diagnosis.telling import failure_lines  # noqa: PLC0415
    from skeleton_service.diagnosis.unused import unused_counters, unused_overlay, unused_records  # noqa: PLC0415
    from skeleton_service.reading.counters import read_counters  # noqa: PLC0415
    from skeleton_service.reading.overlay import read_overlays  # noqa: PLC0415
    from skeleton_service.reading.records import read_records  # noqa: PLC0415

    skeleton = read_skeleton(options.skeleton)
    fabric = Fabric(read_topology(options.topology))
    if options.follow is not None:
        _follow(options, fabric, skeleton)
    records = read_records(options.probes)
    counters = read_counters(options.counters) if options.counters else None
    overlay = read_overlays(options.overlay) if options.overlay else None
    unused = unused_records(records, fabric, options.probes)
    unused += [] if counters is None else unused_counters(counters, fabric, options.counters)
    unused += [] if overlay is None else unused_overlay(overlay, fabric, ", ".join(options.overlay))
    print(*unused, sep="\n", end="\n" if unused else "", file=sys.stderr)
    diagnosis = diagnose(records, fabric, skeleton, counters=counters, overlay=overlay, spraying=options.spraying)
    write(options.output, encode(diagnosis))
    told = ["\n".join(failure_lines(failure)) for failure in diagnosis.failures]
    nothing = "no failure in these records" if len(records) else "no records: nothing can be said of this fabric"
    print("\n\n".join(told) or nothing)
    return 0


def _follow(options: argparse.Namespace, fabric: Fabric, skeleton: Skeleton) -> NoReturn:
    from skeleton_service.following.follow import Given, follow  # noqa: PLC0415
    from skeleton_service.reading.tables import LIVE  # noqa: PLC0415

    for source in options.probes:
        if not source.startswith(LIVE):
            raise ContractError("--follow", f"{source} does not go on", "give URLs of exporters, or leave --follow out")
    if options.overlay and (len(options.overlay) > 1 or options.overlay[0].startswith(LIVE)):
        problem = "takes one file, read again whenever it changes"
        raise ContractError("--follow", f"--overlay {problem}", "write what exporters tell to a file")
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    given = Given(
        fabric,
        skeleton,
        probes=options.probes,
        counters=options.counters or (),
        overlay=Path(options.overlay[0]) if options.overlay else None,
        output=Path(options.output),
        interval=options.follow,
        spraying=options.spraying,
    )
    follow(given, stop)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # threads may wait for a source, or be in Arrow, which does not outlive the interpreter


def _verify(options: argparse.Namespace) -> int:
    from exporter.contracts.intent import check_fits, read_intent  # noqa: PLC0415
    from skeleton_service.verification.readings import Readings, ask_prometheus, read_samples  # noqa: PLC0415
    from skeleton_service.verification.text import verification_lines  # noqa: PLC0415
    from skeleton_service.verification.verify import clock, verify  # noqa: PLC0415

    if options.counters and (options.cluster is not None or options.prometheus_token_file is not None):
        problem = "--cluster and --prometheus-token-file are for --prometheus alone"
        raise ContractError("--counters", problem, "leave them out")
    intent = read_intent(options.intent)
    topology = read_topology(options.topology)
    check_fits(intent, topology, options.intent)
    if options.counters:
        source, told = ", ".join(options.counters), read_samples(options.counters)
    else:
        source, token = options.prometheus, options.prometheus_token_file
        told = ask_prometheus(source, time.time(), token_file=token, cluster=options.cluster)
    readings = Readings(told) if options.since is None else Readings(told, options.since)
    nodes = {host.name for host in topology.hosts} | {switch.name for switch in topology.switches}
    if not nodes & (readings.nodes() | set(readings.too_old)):
        names = ", ".join(_nearest_first(readings.telling_settings(), nodes)[:3])
        problem = f"tells no setting of any switch or host of {options.topology}" + (
            f", but of {names}" if names else ""
        )
        raise ContractError(source, problem, "names have to be those of the topology")
    result = verify(intent, topology, readings, drained=options.drained)
    if options.format == "json":
        print(encode(result).decode(), end="")
    else:
        print(*verification_lines(result), sep="\n")
    if not result.compared and readings.too_old and not nodes & readings.nodes():
        last = clock(max(seen for node, seen in readings.too_old.items() if node in nodes))
        problem = "all was read before --since, so nothing was compared"
        raise ContractError(source, problem, f"the last at {last}: wait for the next poll, or correct --since")
    if not result.compared:
        problem = "tells nothing of what is meant, so nothing was compared"
        raise ContractError(source, problem, "is all of it drained? --drained compares that, too")
    return int(not result.agrees or (options.strict and bool(result.not_told)))


def _serve(options: argparse.Namespace) -> int:
    try:
        from skeleton_service.live.serving import serve  # noqa: PLC0415
        from skeleton_service.live.settings import read_settings  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ContractError("serve", f"needs {error.name}", "pip install 'fabric-skeleton[serve]'") from error
    if not options.check:
        serve(options.config, options.log_format)
    read_settings(options.config)
    print(f"{options.config}: good")
    return 0


def _inject(options: argparse.Namespace) -> int:
    try:
        from skeleton_service.live.injector import inject  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ContractError("inject", f"needs {error.name}", "pip install 'fabric-skeleton[serve]'") from error
    inject(options.sidecar, options.certificate, options.key, options.address, options.port, options.log_format)


def _token(options: argparse.Namespace) -> int:
    try:
        from skeleton_service.live.identity import Identity, Keys, Role  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ContractError("token", f"needs {error.name}", "pip install 'fabric-skeleton[serve]'") from error
    print(Keys(Path(options.keys)).sign(Identity(Role(options.role), options.name), options.valid))
    return 0


_MOST_COMPARED = 100


def _nearest_first(told: Set[str], names: Set[str]) -> list[str]:
    """Names that are told, those first that are most like one of the topology: with a domain, say."""
    short = {name.partition(".")[0].lower() for name in names}
    few = sorted(names)[:_MOST_COMPARED]
    ranked = sorted(told, key=lambda each: (each.partition(".")[0].lower() not in short, each))[:_MOST_COMPARED]

    def likeness(name: str) -> tuple[bool, float]:
        nearest = max(difflib.SequenceMatcher(None, name, each).ratio() for each in few) if few else 0.0
        return name.partition(".")[0].lower() not in short, -nearest

    return sorted(ranked, key=likeness)


def _topology(options: argparse.Namespace) -> int:
    from skeleton_service.discovery.discover import discover  # noqa: PLC0415
    from skeleton_service.discovery.topologyfile import topology_file  # noqa: PLC0415
    from skeleton_service.reading.neighbors import read_neighbors  # noqa: PLC0415

    if options.check and options.operator is None:
        raise ContractError("--check", "compares with the operator's file", "give it as --operator")
    if options.strict and not options.check:
        raise ContractError("--strict", "has no meaning without --check", "add it, or leave --strict out")
    if options.switch and not options.check:
        raise ContractError("--switch", "has no meaning without --check", "add it, or leave --switch out")
    if not options.check and options.output is None:
        raise ContractError("--output", "is missing", "name a file, or give --check, which writes none")
    operator = read_topology(options.operator) if options.operator is not None else None
    if operator is not None:
        _known_switches(options.switch, operator, options.operator)
    neighbors = read_neighbors(options.discovered)
    try:
        found = discover(neighbors.switches, operator)
    except ContractError as error:  # a value does not know its file
        raise ContractError(", ".join(options.discovered), error.problem, error.remedy) from error
    differences, blind = found.differences, found.blind
    if options.switch:
        differences, blind = found.of_switches(options.switch)
    lines = (*differences, *(f"not told: {line}" for line in blind))
    print(*lines, sep="\n", end="\n" if lines else "")
    if options.check and not options.switch and not found.concerns_file:
        problem = f"tells no neighbour of any switch of {options.operator}, so nothing was compared"
        remedy = "is LLDP on, and is it what fabric-exporter switch neighbors wrote?"
        raise ContractError(", ".join(options.discovered), problem, remedy)
    if options.check:
        return int(bool(differences) or (options.strict and bool(blind)))
    write(options.output, topology_file(found.topology, options.output))
    counts = (
        f"{len(found.topology.switches)} switches, {len(found.topology.hosts)} hosts, {len(found.topology.links)} links"
    )
    print(f"{options.output}: {counts}, {len(found.differences)} differences")
    return 0


def _known_switches(names: Sequence[str], topology: Topology, source: str) -> None:
    known = [switch.name for switch in topology.switches]
    for name in names:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            remedy = f"did you mean {nearest[0]!r}?" if nearest else "correct it"
            raise ContractError("--switch", f"no switch {name!r} in {source}", remedy)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="skeleton-service",
        description="Learns the paths a training job uses, makes probe plans and alert rules, names what is broken.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)

    infer = commands.add_parser("infer", help="throughput to skeleton")
    infer.add_argument(
        "--throughput", required=True, nargs="+", metavar="FILE", help="CSV, CSV.gz, Parquet, URL, prometheus:URL"
    )
    infer.add_argument("--topology", required=True, metavar="FILE")
    infer.add_argument("--job", metavar="NAME", help="which job, where the throughput holds several")
    infer.add_argument("--window", type=_seconds, metavar="15m", help="how much to ask Prometheus for")
    infer.add_argument("--step", type=_seconds, metavar="1s", help="the exporters' throughput.step_seconds")
    infer.add_argument(
        "--end",
        type=_time,
        metavar="TIME",
        help="end of the window: RFC 3339 (UTC where it names no zone) or Unix seconds; or now",
    )
    infer.add_argument("--prometheus-token-file", metavar="FILE", help="bearer token for Prometheus, on its first line")
    infer.add_argument("--previous", metavar="FILE", help="a skeleton to keep as long as it explains the traffic")
    infer.add_argument("--basic", action="store_true", help="do not look at the traffic: every pair of a rail")
    infer.add_argument("--output", required=True, metavar="FILE")
    infer.set_defaults(run=_infer)

    plan = commands.add_parser("plan", help="skeleton, or a job's hosts, to probe plan")
    plan.add_argument("--topology", required=True, metavar="FILE")
    plan.add_argument("--skeleton", metavar="FILE", help="needed but for a preload list, made before containers run")
    plan.add_argument(
        "--phase",
        choices=("preload", "skeleton"),
        default="skeleton",
        help="every pair of a rail, each probed once its destination is up; or the skeleton's pairs (default)",
    )
    plan.add_argument("--job", metavar="NAME", help="whose preload list, where no skeleton says")
    plan.add_argument(
        "--hosts", metavar="NAMES|FILE", help="its hosts: a,b,c or a file of names; default: all active ones"
    )
    plan.add_argument(
        "--probe",
        nargs="+",
        choices=("udp", "rdma"),
        default=["udp"],
        help="small probes of each path; both tell what RDMA alone loses (default: udp)",
    )
    plan.add_argument(
        "--coverage", type=_probability, default=0.99, metavar="P", help="chance to cross every equal-cost path"
    )
    plan.add_argument(
        "--max-paths", type=_count, default=4096, metavar="N", help="most a host may be asked for: probing.max_paths"
    )
    plan.add_argument(
        "--exploration", type=_share, default=0.05, metavar="S", help="share of pairs probed beside the skeleton"
    )
    plan.add_argument(
        "--rotation", type=_share, default=0.25, metavar="S", help="share of source ports drawn anew each generation"
    )
    plan.add_argument(
        "--traffic-class", type=int, default=106, metavar="N", help="of the job, (DSCP << 2) | 2; default: DSCP 26"
    )
    plan.add_argument(
        "--default-traffic-class",
        type=_class_or_none,
        default=2,
        metavar="N|none",
        help="probed beside it, for comparison; default: DSCP 0",
    )
    plan.add_argument("--generation", type=int, metavar="N", help="default: now, in Unix seconds")
    plan.add_argument("--valid-seconds", type=float, default=86400.0, metavar="S")
    plan.add_argument("--split-by-host", action="store_true", help="write OUTPUT/HOST.json, each host's part alone")
    plan.add_argument("--output", required=True, metavar="FILE|DIR")
    plan.set_defaults(run=_plan)

    rulescommand.add_parser(commands)
    jobs_command.add_parser(commands)

    diagnose = commands.add_parser("diagnose", help="probe records to a named component")
    diagnose.add_argument("--probes", required=True, nargs="+", metavar="FILE", help="CSV, JSONL, Parquet or URL")
    diagnose.add_argument("--topology", required=True, metavar="FILE")
    diagnose.add_argument("--skeleton", required=True, metavar="FILE")
    diagnose.add_argument("--counters", nargs="+", metavar="FILE", help="counter samples: CSV, JSONL, Parquet or URL")
    diagnose.add_argument(
        "--overlay", nargs="+", metavar="FILE", help="overlay state, tables of virtual switches and RNICs: JSON or URL"
    )
    diagnose.add_argument(
        "--follow",
        nargs="?",
        type=_interval,
        const=5.0,
        metavar="SECONDS",
        help="go on: ask the URLs again and again (default: every 5 s), tell failures as they come and go",
    )
    diagnose.add_argument(
        "--spraying", action="store_true", help="the fabric sprays packets: a path without a route takes every way"
    )
    diagnose.add_argument("--output", required=True, metavar="FILE")
    diagnose.set_defaults(run=_diagnose)

    verify = commands.add_parser("verify", help="is the network what it is meant to be? exit 1 where not")
    verify.add_argument("--intent", required=True, metavar="FILE")
    verify.add_argument("--topology", required=True, metavar="FILE")
    told = verify.add_mutually_exclusive_group(required=True)
    told.add_argument("--counters", nargs="+", metavar="FILE", help="counter samples: CSV, JSONL, Parquet or URL")
    told.add_argument("--prometheus", metavar="URL", help="the Prometheus that scrapes the exporters")
    verify.add_argument("--prometheus-token-file", metavar="FILE", help="bearer token, on its first line")
    verify.add_argument("--cluster", metavar="NAME", help="which cluster, where Prometheus holds several")
    verify.add_argument(
        "--since",
        type=_time,
        metavar="TIME",
        help="what was read before is not told: RFC 3339 (UTC where it names no zone) or Unix seconds",
    )
    verify.add_argument("--drained", action="store_true", help="drained nodes and ports that are shut, too")
    verify.add_argument("--strict", action="store_true", help="exit 1 also where something meant is not told")
    verify.add_argument("--format", choices=("text", "json"), default="text")
    verify.set_defaults(run=_verify)

    topology = commands.add_parser("topology", help="what switches see by LLDP, merged into the topology file")
    topology.add_argument("--discovered", required=True, nargs="+", metavar="FILE", help="neighbours: JSON or URL")
    topology.add_argument("--operator", metavar="FILE", help="your topology file: what LLDP cannot know")
    topology.add_argument("--check", action="store_true", help="write nothing; exit 1 where the two differ")
    topology.add_argument(
        "--switch",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="with --check, links of these switches alone, each of which has to tell a neighbour",
    )
    topology.add_argument("--strict", action="store_true", help="with --check, exit 1 also where one tells nothing")
    topology.add_argument("--output", metavar="FILE", help="YAML by its name's end, .yaml or .yml; else JSON")
    topology.set_defaults(run=_topology)

    serve = commands.add_parser("serve", help="run as a service: jobs, plans for agents, verdicts for people")
    serve.add_argument("--config", required=True, metavar="FILE")
    serve.add_argument("--check", action="store_true", help="read the configuration, say what is wrong with it, end")
    serve.add_argument("--log-format", choices=("text", "json"), default="text", help="of what it says (default: text)")
    serve.set_defaults(run=_serve)

    inject = commands.add_parser("inject", help="Kubernetes' admission webhook that gives pods of jobs an exporter")
    inject.add_argument(
        "--sidecar", required=True, metavar="FILE", help="the container and its volumes, as the chart has"
    )
    inject.add_argument("--certificate", required=True, metavar="FILE", help="PEM; read anew when it changes")
    inject.add_argument("--key", required=True, metavar="FILE")
    inject.add_argument("--address", default="0.0.0.0", help="default: %(default)s")  # noqa: S104 - the API server asks
    inject.add_argument("--port", type=int, default=9443, help="default: %(default)s")
    inject.add_argument(
        "--log-format", choices=("text", "json"), default="text", help="of what it says (default: text)"
    )
    inject.set_defaults(run=_inject)

    token = commands.add_parser("token", help="a bearer token for an agent, a reader or an operator of the service")
    token.add_argument("--keys", required=True, metavar="FILE", help="the service's; the first key signs")
    token.add_argument("--role", required=True, choices=("agent", "reader", "operator"))
    token.add_argument("--name", required=True, metavar="NAME", help="of the host for an agent; else whose it is")
    token.add_argument("--valid", type=_seconds, default=90 * 86400.0, metavar="90d", help="default: 90 days")
    token.set_defaults(run=_token)

    lint_command.add(commands)
    return parser


def _probability(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", text)
    if match is None or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration: write 1s, 500ms or 15m")
    return float(match[1]) * _UNITS[match[2]]


def _interval(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 300:
        raise argparse.ArgumentTypeError(f"{text} is not from 0.1 to 300 seconds")
    return value


def _time(text: str) -> float:
    with suppress(ValueError):
        if isfinite(seconds := float(text)):
            return seconds
    with suppress(ValueError):
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    raise argparse.ArgumentTypeError(f"{text!r} is not a time: write 2026-01-31T12:00:00Z or seconds since 1970")


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return value


def _class_or_none(text: str) -> int | None:
    return None if text == "none" else int(text)


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def main(arguments: list[str] | None = None) -> int:
    """Exit 0 on success, 1 from ``--check``, ``verify`` and ``lint`` alone, 2 on bad input: file, field, remedy."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except ContractError as error:
        print(f"skeleton-service: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"skeleton-service: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
