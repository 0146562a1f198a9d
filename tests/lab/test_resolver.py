"""The cluster's resolver under a burst of endpoints, without and with caches on the hosts, as dig sees it."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from lab import sandbox
from lab.errors import LabError
from lab.faults import kind
from lab.network import dns, resolver
from lab.network.design import Design, draw
from lab.network.registration import Measured, Report, candidates, draw_burst
from lab.network.resolver import Plan
from lab.running import Running
from tests.lab.processes import command_lines, stop_exporter

# ---- as values


def test_a_query_is_what_rfc_1035_says() -> None:
    assert dns.query(0x1234, "ns.example.", dns.A).hex() == "123401000001000000000000026e73076578616d706c650000010001"


def test_an_answer_is_read_past_compressed_names() -> None:
    question = dns.query(7, "a.example", dns.A)[12:]
    alias = b"\xc0\x0c" + bytes.fromhex("0005 0001 00000005 0002") + b"\xc0\x0e"
    record = b"\xc0\x0e" + bytes.fromhex("0001 0001 00000005 0004 0a010203")
    answer = dns.decode(bytes.fromhex("0007 8180 0001 0002 0000 0000") + question + alias + record)
    assert answer == dns.Answer(7, dns.NOERROR, False, ("10.1.2.3",))


@given(st.binary(max_size=80))
def test_no_message_breaks_the_reader(data: bytes) -> None:
    try:
        dns.decode(data)
    except ValueError:
        return


@pytest.mark.parametrize("name", ["a..b", "x" * 64, ".".join(["abcdefgh"] * 30)])
def test_what_is_no_domain_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="domain name"):
        dns.encode_name(name)


def test_a_name_with_four_dots_goes_through_the_search_list_first() -> None:
    search = ("training.svc.cluster.local", "cluster.local")
    name = "worker-1.training.svc.cluster.local"
    assert list(candidates(name, search)) == [f"{name}.{suffix}" for suffix in search] + [name]
    assert next(candidates("a.b.c.d.e.f", search)) == "a.b.c.d.e.f"
    assert list(candidates(f"{name}.", search)) == [f"{name}."]


def test_a_report_counts_by_kind_and_result() -> None:
    report = Report([Measured("query", "a", 0, 0.1, "NOERROR"), Measured("query", "b", 0, 5, "timeout")], 5.0)
    spread = report.spread("query")
    assert spread.count == 2
    assert spread.longest_seconds == 5
    assert spread.results == {"NOERROR": 1, "timeout": 1}
    assert report.spread("update").count == 0


def test_a_lab_without_a_second_site_has_no_resolver() -> None:
    design = draw(1)
    for ask in (lambda: resolver.plan(design), lambda: kind("resolver-burst").resolve(design, design.hosts[0].name)):
        with pytest.raises(LabError, match="--transit"):
            ask()


# ---- as packets


@pytest.fixture(scope="module")
def design(two_sites: Running) -> Design:
    return two_sites.design()


@pytest.fixture(scope="module")
def plan(design: Design) -> Plan:
    return resolver.plan(design)


@pytest.fixture
def cached(two_sites: Running) -> Iterator[Running]:
    two_sites.act("resolver-cache", "on")
    yield two_sites
    two_sites.act("resolver-cache", "off")


def dig(lab: Running, host: str, server: str, name: str) -> tuple[str, float]:
    """Status (or "timeout") and time in ms of one question, as dig has them."""
    done = lab.run(host, f"dig +tries=1 +time=2 @{server} {name} A".split(), check=False)
    status = re.search(r"status: (\w+)", done.stdout)
    spent = re.search(r"Query time: (\d+) msec", done.stdout)
    return (status[1], float(spent[1])) if status and spent else ("timeout", 2000.0)


def dig_while(process: subprocess.Popen[str], lab: Running, host: str, plan: Plan) -> Counter[str]:
    """What dig gets for new names, four at a time, as long as ``process`` runs."""
    number = itertools.count()
    found: Counter[str] = Counter()

    def ask() -> None:
        while process.poll() is None:
            names = [f"dug-{next(number)}.{plan.domain}" for _ in range(25)]
            shell = f"printf '%s\\n' {' '.join(names)} | dig +tries=1 +time=1 @{plan.address} -f -"
            answer = lab.run(host, ["sh", "-c", shell], check=False).stdout
            found.update(re.findall(r"status: (\w+)", answer))
            found["timeout"] += answer.count("no servers could be reached")

    with ThreadPoolExecutor(4) as pool:
        for task in [pool.submit(ask) for _ in range(4)]:
            task.result()
    return found


def burst(lab: Running, endpoints: int, seed: int, *words: str) -> subprocess.Popen[str]:
    module = [sys.executable, "-m", "lab.network.registration", "--directory", str(lab.directory)]
    numbers = ["--endpoints", str(endpoints), "--peers", "1", "--seed", str(seed)]
    argv = lab.command(None, [*module, *numbers, *words])
    return subprocess.Popen(argv, env=sandbox.environment(), stdout=subprocess.PIPE, text=True)


def result(process: subprocess.Popen[str]) -> dict[str, dict[str, float]]:
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return json.loads(output)  # type: ignore[no-any-return]


def failures(results: dict[str, int]) -> int:
    return sum(count for rcode, count in results.items() if rcode not in ("NOERROR", "NXDOMAIN"))


def statistics(lab: Running, plan: Plan) -> dict[str, int]:
    """What named itself has counted."""
    address = lab.design().service_host(plan.host).management
    script = f"import urllib.request as u; print(u.urlopen('http://{address}:8053/json/v1/server').read().decode())"
    return json.loads(lab.run(None, [sys.executable, "-c", script]).stdout)["nsstats"]  # type: ignore[no-any-return]


def test_the_resolver_answers_for_the_cluster_and_asks_the_second_site_for_the_rest(
    two_sites: Running, design: Design, plan: Plan
) -> None:
    host = design.hosts[0].name
    assert dig(two_sites, host, plan.address, f"ns.{resolver.ZONE}")[0] == "NOERROR"
    assert dig(two_sites, host, plan.address, f"nobody.{resolver.ZONE}")[0] == "NXDOMAIN"
    status, spent = dig(two_sites, host, plan.address, f"a-new-name.{plan.domain}")
    assert status == "NXDOMAIN"
    assert spent >= plan.upstream_microseconds / 1e3
    assert dig(two_sites, host, plan.address, plan.store)[0] == "NOERROR"


def test_an_endpoint_registers_and_dig_finds_it(two_sites: Running, design: Design, plan: Plan) -> None:
    seen = result(burst(two_sites, 4, seed=1))
    assert seen["update"]["results"] == {"NOERROR": 4}
    assert seen["lookup"]["results"] == {"NOERROR": 8}
    assert seen["query"]["count"] == 4 * (10 + 10), "five names for either, A and AAAA"
    endpoint = draw_burst(design, 4, 1, 1, resolver=plan.address).endpoints[3]
    answer = two_sites.run(design.hosts[-1].name, ["dig", "+short", f"@{plan.address}", endpoint.name]).stdout
    assert answer.strip() == endpoint.address


def test_a_burst_overwhelms_the_resolver(two_sites: Running, design: Design, plan: Plan) -> None:
    before = statistics(two_sites, plan)
    process = burst(two_sites, 500, seed=2)
    dug = dig_while(process, two_sites, design.hosts[-1].name, plan)
    seen = result(process)
    assert failures(seen["query"]["results"]) > 50  # type: ignore[arg-type]
    assert seen["lookup"]["longest_seconds"] > 3, "who is dropped waits 5 s; on a busy machine the rest waits too"
    assert dug["SERVFAIL"] + dug["timeout"] > 0, dug
    after = statistics(two_sites, plan)
    counted = {name: after.get(name, 0) - before.get(name, 0) for name in ("RecLimitDropped", "QryDropped")}
    assert sum(counted.values()) > 0, "no more recursive clients, or too many with one question"


def test_caches_on_the_hosts_mend_it(cached: Running, design: Design, plan: Plan) -> None:
    host = design.hosts[-1]
    before = statistics(cached, plan)
    process = burst(cached, 500, seed=3)
    dug = [dig(cached, host.name, host.rnics[0].address, f"calm-{number}.{plan.domain}") for number in range(8)]
    seen = result(process)
    assert seen["lookup"]["results"] == {"NOERROR": 1000}
    lost = failures(seen["update"]["results"]) + failures(seen["query"]["results"])  # type: ignore[arg-type]
    assert lost < 100, "of 10,500: on a busy machine a process sleeps while its socket's buffer overflows"
    assert seen["query"]["p99_seconds"] < 2
    assert {status for status, _ in dug} == {"NXDOMAIN"}
    assert dig(cached, host.name, host.rnics[0].address, f"calm-0.{plan.domain}")[1] <= 5, "known by now"
    after = statistics(cached, plan)
    assert after.get("RecLimitDropped", 0) == before.get("RecLimitDropped", 0)
    assert after["QryRecursion"] == before["QryRecursion"], "the cluster's resolver is asked for its own names only"


def test_caches_leave_no_process(two_sites: Running, design: Design) -> None:
    for state in ("on", "on", "off", "off"):
        two_sites.act("resolver-cache", state)
    host = design.hosts[0]
    assert dig(two_sites, host.name, host.rnics[0].address, f"ns.{resolver.ZONE}")[0] == "timeout"


def test_a_burst_is_a_fault_that_lasts_until_it_is_healed(two_sites: Running, plan: Plan) -> None:
    name = str(two_sites.fault("resolver-burst", plan.host, "20", "0.1")).strip()
    assert name == f"resolver-burst {plan.host} endpoints 20 pause 0.1 s"
    log = two_sites.directory / "logs" / "registration-resolver-burst.log"
    deadline = time.monotonic() + 15
    while not (log.exists() and log.read_text().count("\n") > 1):
        assert time.monotonic() < deadline, "two jobs have come and gone"
        time.sleep(0.05)
    two_sites.act("heal", "all")
    assert not [line for line in command_lines(two_sites) if "lab.network.registration" in line]
    with pytest.raises(LabError, match=plan.host):
        two_sites.fault("resolver-burst", "nowhere")


# ---- as an exporter on a host sees it


@pytest.fixture
def asking(two_sites: Running, design: Design, plan: Plan, tmp_path: Path) -> Iterator[Callable[[], dict[str, float]]]:
    """An exporter that resolves names of the second site which no cache holds; gives what it has counted so far."""
    host = design.hosts[-1]
    (tmp_path / "key").write_bytes(b"k" * 32)
    configuration = {
        "host": host.name,
        "listen": {"address": host.management, "port": 9405},
        "rnics": [{"name": rnic.name, "ip": rnic.address} for rnic in host.rnics],
        "probing": {"key_file": "key", "responder": False},
        "dns": {
            "resolvers": [plan.address],
            "names": [f"*.n{number}.{plan.store}." for number in range(10)],
            "period_seconds": 1,
            "timeout_seconds": 2,
            "search": [],
            "ndots": 1,
        },
    }
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(configuration))
    argv = [sys.executable, "-m", "exporter.cli", "run", "--config", str(config)]
    process = subprocess.Popen(two_sites.command(host.name, argv), env=sandbox.environment())
    script = f"import urllib.request as u; print(u.urlopen('http://{host.management}:9405/metrics').read().decode())"

    def counted() -> dict[str, float]:
        page = two_sites.run(None, [sys.executable, "-c", script], check=False).stdout
        sums: dict[str, float] = Counter()
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                sums[sample.labels.get("rcode") or sample.name.removeprefix("fabric_dns_")] += sample.value
        return sums

    try:
        yield counted
    finally:
        assert stop_exporter(process, config) == 0


def test_a_resolver_that_is_overwhelmed_fails_the_queries_of_an_exporter_until_it_is_healed(
    two_sites: Running, plan: Plan, asking: Callable[[], dict[str, float]]
) -> None:
    def until(condition: Callable[[dict[str, float]], bool], since: dict[str, float]) -> dict[str, float]:
        deadline = time.monotonic() + 40
        while True:
            now = asking()
            grown = {name: value - since.get(name, 0) for name, value in now.items()}
            if condition(Counter(grown)):
                return now
            assert time.monotonic() < deadline, grown
            time.sleep(0.5)

    calm = until(lambda seen: seen["resolutions_total"] >= 30, {})
    assert calm["resolution_failures_total"] == calm["timeouts_total"] == calm["servfail"] == 0
    assert calm["noerror"] >= 30
    assert calm["query_duration_seconds_sum"] / calm["noerror"] > plan.upstream_microseconds / 1e6, "no cache answered"
    two_sites.fault("resolver-burst", plan.host, "500", "0")
    try:
        burst = until(lambda seen: seen["timeouts_total"] + seen["servfail"] >= 10, calm)
        failed = sum(burst[name] - calm[name] for name in ("timeouts_total", "servfail", "refused"))
        assert failed / (burst["queries_total"] - calm["queries_total"]) > 0.1, "what FabricResolverFailing asks"
        assert burst["resolution_failures_total"] >= 10
        assert burst["unreachable_total"] == burst["rejected_total"] == burst["nxdomain"] == 0
    finally:
        two_sites.act("heal", "all")
    time.sleep(3)  # what was asked before has timed out
    healed = asking()
    mended = until(lambda seen: seen["resolutions_total"] >= 30, healed)
    assert mended["resolution_failures_total"] == healed["resolution_failures_total"]
