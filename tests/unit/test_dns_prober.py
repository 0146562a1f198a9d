"""DNS probes against a resolver on loopback that answers as it is told: well, badly, late, forged or not at all."""

from __future__ import annotations

import csv
import io
import socket
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from exporter.contracts.catalogue import CATALOGUE, DNS, DNS_ANSWER_TABLE, DNS_DURATION_TABLE, SERIES_TERMS
from exporter.dnsconfig import candidates
from exporter.exposition import Renderer
from exporter.planfile import Work
from exporter.probing.dns.message import encode_name, encode_query
from exporter.probing.dns.prober import DnsProber
from exporter.probing.loop import Loop
from exporter.probing.settings import DnsSettings, prober_tables
from exporter.records import RecordWriter
from exporter.results import ResultRing
from exporter.store import Store
from tests.unit.resolvers import A_RECORD, ALIAS, NAME, Reply, asked_name, framed, over_tcp, reply, resolver, truncated
from tests.unit.running import RunningExporter, free_port, until


class Seen:
    """What a prober has written for its lookups, one resolver and one name taken together."""

    def __init__(self, store: Store, results: ResultRing) -> None:
        text = RecordWriter(store, results).csv(0, Work()).decode()
        self.records = list(csv.DictReader(io.StringIO(text)))
        self._sums = [sum(values) for values in zip(*(row.values for row in store.read(DNS)), strict=True)]
        self.answers: dict[str, int] = {}
        for row in store.read(DNS_ANSWER_TABLE):
            self.answers[row.labels[3]] = self.answers.get(row.labels[3], 0) + int(row.values[0])
        self.durations = [row.values for row in store.read(DNS_DURATION_TABLE)]

    def __getitem__(self, name: str) -> float:
        return self._sums[[metric.otel_name for metric in DNS.metrics].index(f"fabric.dns.{name}")]


def settings(
    *ports: int,
    names: Sequence[str] = (NAME,),
    search: Sequence[str] = (),
    period: float = 0.06,
    timeout: float = 0.15,
    rate: float = 100,
) -> DnsSettings:
    return DnsSettings(
        resolvers=tuple((f"127.0.0.1:{port}", "127.0.0.1", port) for port in ports),
        names=tuple((name, candidates(name, search, 5)) for name in names),
        period_seconds=period,
        timeout_seconds=timeout,
        max_queries_per_second=rate,
    )


def probe(asked: DnsSettings, seconds: float = 0.3, during: Callable[[Loop], None] = lambda _: None) -> Seen:
    """Probe for so long, and then until no query is under way: all that was asked has come to its end."""
    store, results, loop = Store(prober_tables(1, asked)), ResultRing(4096), Loop()
    prober = DnsProber(loop, asked, "h1", store, results)

    def stop_when_idle() -> None:
        prober._begin = lambda _: None  # type: ignore[method-assign]
        if any(lookup.asked for lookup in prober._lookups):
            loop.after(0.01, stop_when_idle)
        else:
            loop.stop()

    prober.start()
    loop.after(seconds, stop_when_idle)
    loop.after(seconds + 5, loop.stop)
    during(loop)
    loop.run()
    return Seen(store, results)


def test_a_name_that_is_there_is_answered_in_one_query_from_a_new_port_with_a_new_identifier() -> None:
    with resolver(lambda query: [reply(query)]) as serving:
        seen = probe(settings(serving.port))
    assert seen["queries"] == len(serving.queries) >= 4
    assert seen.answers["noerror"] == seen["resolutions"] == seen["queries"]
    assert seen["resolution.failures"] == seen["timeouts"] == seen["rejected"] == seen["unsent"] == 0
    assert seen["resolution.queries"] == 1
    assert 0 < seen["rtt"] < 0.1
    assert sum(seen.durations[0][:-1]) == seen["queries"]
    assert 0 < seen.durations[0][-1] < 0.1 * seen["queries"]
    assert len({query[:2] for query in serving.queries}) == len(serving.sources) == len(serving.queries)


@pytest.mark.parametrize(
    ("rcode", "name"), [(2, "servfail"), (3, "nxdomain"), (5, "refused"), (1, "other"), (9, "other")]
)
def test_an_answer_is_counted_by_its_code_and_leaves_the_name_unresolved(rcode: int, name: str) -> None:
    with resolver(lambda query: [reply(query, rcode, ())]) as serving:
        seen = probe(settings(serving.port))
    assert seen.answers == {code: seen["queries"] if code == name else 0 for code in seen.answers}
    assert seen["resolution.failures"] == seen["resolutions"] == seen["queries"] > 0


def test_a_resolver_that_is_silent_times_out() -> None:
    with resolver(lambda _: []) as serving:
        seen = probe(settings(serving.port), 0.6)
    assert 0 < seen["timeouts"] == seen["queries"] <= 4, "one at a time: the next waits for the timeout of the last"
    assert seen["resolution.failures"] == seen["timeouts"]
    assert sum(seen.answers.values()) == seen["unreachable"] == seen["unsent"] == 0


def test_where_no_resolver_listens_is_unreachable_at_once() -> None:
    seen = probe(settings(free_port(address="127.0.0.1")))
    assert seen["unreachable"] == seen["queries"] >= 4
    assert seen["timeouts"] == 0
    assert seen["resolution.failures"] == seen["resolutions"] == seen["queries"]


FORGED: dict[str, Reply] = {
    "another identifier": lambda query: [reply(bytes([query[0] ^ 1]) + query[1:])],
    "another question": lambda query: [reply(encode_query(int.from_bytes(query[:2], "big"), "other.example"))],
    "another type": lambda query: [reply(query[:-3] + b"\x1c" + query[-2:])],
    "no question": lambda query: [query[:2] + struct.pack("!5H", 0x8180, 0, 1, 0, 0) + A_RECORD],
    "the query itself": lambda query: [query],
    "an answer to an update": lambda query: [reply(query, flags=0xA980)],
    "a record that ends too early": lambda query: [reply(query, records=(A_RECORD[:-1],))],
    "fewer records than it says": lambda query: [reply(query)[:-16]],
    "a label of a kind that is none": lambda query: [reply(query, records=(b"\x80" + A_RECORD,))],
    "nothing": lambda _: [b""],
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_what_is_no_answer_to_the_query_is_dropped_and_the_answer_still_awaited(forged: Reply) -> None:
    with resolver(lambda query: [*forged(query), reply(query)]) as serving:
        seen = probe(settings(serving.port))
    assert seen["rejected"] == seen["queries"] == seen.answers["noerror"] > 0
    with resolver(forged) as serving:
        seen = probe(settings(serving.port))
    assert 0 < seen["timeouts"] <= seen["rejected"]
    assert sum(seen.answers.values()) == 0


def test_an_answer_from_elsewhere_does_not_arrive() -> None:
    def from_elsewhere(query: bytes) -> list[bytes]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            for source in list(serving.sources):
                other.sendto(reply(query), source)
        return []

    with resolver(from_elsewhere) as serving:
        seen = probe(settings(serving.port))
    assert seen["timeouts"] > 0
    assert sum(seen.answers.values()) == 0


def test_letters_whose_case_is_not_kept_are_the_same_question() -> None:
    with resolver(lambda query: [reply(query[:12] + query[12:].upper())]) as serving:
        seen = probe(settings(serving.port))
    assert seen.answers["noerror"] == seen["queries"] > 0


def test_a_truncated_answer_is_asked_for_again_over_tcp_and_counted_apart() -> None:
    with resolver(truncated) as serving, over_tcp(serving, lambda query: framed(reply(query))) as again:
        seen = probe(settings(serving.port))
    assert seen["truncated"] == seen.answers["noerror"] == seen["queries"] == seen["tcp.queries"] > 0
    assert again == serving.queries, "the same query, whole"
    assert seen["tcp.failures"] == seen["resolution.failures"] == seen["timeouts"] == 0
    assert 0 < seen["tcp.rtt"] < 0.1
    assert sum(seen.durations[0][:-1]) == seen["queries"], "only those over UDP"
    assert [record["error"] for record in seen.records[:2]] == ["truncated", ""]
    assert [record["dial"] for record in seen.records[:2]] == ["fail", "success"]


def test_an_answer_over_tcp_may_be_long_and_come_in_pieces() -> None:
    def long(query: bytes) -> bytes:
        return framed(reply(query, records=[A_RECORD] * 900))

    with resolver(truncated) as serving, over_tcp(serving, long, pieces=3000) as again:
        seen = probe(settings(serving.port, period=0.3), 0.4)
    assert len(again) == seen["tcp.queries"] > 0
    assert seen["tcp.failures"] == seen["resolution.failures"] == 0


def test_a_name_that_is_not_there_over_tcp_leads_on_through_the_search_list() -> None:
    def absent(query: bytes) -> bytes:
        return framed(reply(query, 3, ()))

    with resolver(truncated) as serving, over_tcp(serving, absent):
        seen = probe(settings(serving.port, search=("a.example",), period=0.4), 0.5)
    assert seen["tcp.queries"] == seen["queries"] == 2 * seen["resolutions"]
    assert seen["resolution.failures"] == seen["resolutions"] > 0
    assert {record["error"] for record in seen.records} == {"truncated", "nxdomain"}


NO_TCP_ANSWER: dict[str, Callable[[bytes], bytes]] = {
    "closed": lambda _: b"",
    "forged": lambda query: framed(reply(bytes([query[0] ^ 1]) + query[1:])),
    "truncated again": lambda query: framed(truncated(query)[0]),
    "an end too early": lambda query: framed(reply(query))[:-1],
    "junk": lambda _: bytes([0, 40]) + b"x" * 5000,
    "of no length": lambda _: bytes(2),
    "longer than any": lambda query: b"\xff\xff" + reply(query) + bytes(100_000),
}


@pytest.mark.parametrize("hang", [False, True], ids=["then closes", "then hangs"])
@pytest.mark.parametrize("answer", NO_TCP_ANSWER.values(), ids=NO_TCP_ANSWER)
def test_what_is_no_answer_over_tcp_is_a_failure_in_time(answer: Callable[[bytes], bytes], hang: bool) -> None:
    with resolver(truncated) as serving, over_tcp(serving, answer, hang=hang):
        began = time.monotonic()
        seen = probe(settings(serving.port, period=0.4, timeout=0.15), 0.5)
        assert time.monotonic() - began < 3
    assert seen["tcp.failures"] == seen["tcp.queries"] == seen["truncated"] == seen["resolution.failures"] > 0
    assert [record["error"] for record in seen.records[:2]] == ["truncated", "tcp failed"]
    assert [record["loss_rate"] for record in seen.records[:2]] == ["0", "1"]


def test_where_nobody_listens_on_tcp_a_truncated_answer_is_a_failure() -> None:
    with resolver(truncated) as serving:
        seen = probe(settings(serving.port))
    assert seen["tcp.failures"] == seen["tcp.queries"] == seen["resolution.failures"] == seen["queries"] > 0


def test_queries_over_tcp_keep_the_ceiling() -> None:
    with resolver(truncated) as serving, over_tcp(serving, lambda query: framed(reply(query))) as again:
        seen = probe(settings(serving.port, names=("a.", "b.", "c.", "d."), period=0.1, rate=20), 1.0)
    assert len(serving.queries) + len(again) <= 1.5 * 20 + 8, "the last ones end after their time"
    assert seen["tcp.queries"] == len(again) > 4


def test_records_tell_what_became_of_each_query() -> None:
    outcomes = {"a": (0, (A_RECORD,)), "b": (3, ()), "c": (2, ()), "d": (5, ()), "e": (9, ()), "f": (0, (ALIAS,))}

    def answer(query: bytes) -> list[bytes]:
        name = asked_name(query)
        return [reply(query, *outcomes[name])] if name in outcomes else []

    with resolver(answer) as serving:
        label = f"127.0.0.1:{serving.port}"
        seen = probe(settings(serving.port, names=[f"{name}." for name in "abcdefg"], period=0.8), 0.9)
        nowhere = probe(settings(free_port(address="127.0.0.1")))
    told = {record["dns_name"]: (record["dial"], record["error"], record["loss_rate"]) for record in seen.records}
    assert told == {
        "a.": ("success", "", "0"),
        "b.": ("fail", "nxdomain", "0"),
        "c.": ("fail", "servfail", "0"),
        "d.": ("fail", "refused", "0"),
        "e.": ("fail", "other", "0"),
        "f.": ("fail", "nodata", "0"),
        "g.": ("fail", "timeout", "1"),
    }
    first = seen.records[0]
    ends = [first[column] for column in ("task_type", "src_node_sn", "dst_node_id", "dst_ip", "dst_port")]
    assert ends == ["DNS", "h1", label, "127.0.0.1", str(serving.port)]
    assert all(0 < float(r["latency"]) < 1e5 if r["dial"] == "success" else not r["latency"] for r in seen.records)
    assert {(record["error"], record["loss_rate"]) for record in nowhere.records} == {("unreachable", "1")}


def ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as one:
            one.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not ipv6(), reason="this host has no IPv6 (net.ipv6.conf.lo.disable_ipv6)")
def test_a_resolver_may_have_an_ipv6_address() -> None:
    with resolver(truncated, "::1") as serving:
        asked = msgspec.structs.replace(settings(serving.port), resolvers=(("six", "0:0::1", serving.port),))
        seen = probe(asked)
    assert seen["truncated"] == seen["queries"] == seen["tcp.failures"] >= 4
    assert seen["timeouts"] == seen["rejected"] == 0
    assert 0 < seen["rtt"] < 0.1
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as free:
        free.bind(("::1", 0))
        port = free.getsockname()[1]
    seen = probe(msgspec.structs.replace(asked, resolvers=(("six", "::1", port),)))
    assert seen["unreachable"] == seen["queries"] >= 4


def test_pointers_that_lead_to_themselves_lead_nowhere() -> None:
    loop = b"\xc0" + bytes([12 + len(encode_name(NAME)) + 4])  # the record's own beginning
    with resolver(lambda query: [reply(query, records=(loop + A_RECORD[2:], ALIAS))]) as serving:
        seen = probe(settings(serving.port))
    assert seen.answers["noerror"] == seen["queries"] > 0


SEARCH = ("training.svc.cluster.local", "svc.cluster.local", "cluster.local", "example")


def test_a_search_list_costs_a_query_for_each_domain_before_the_name_is_asked_for() -> None:
    with resolver(lambda query: [reply(query, *((0,) if asked_name(query) == NAME else (3, ())))]) as serving:
        seen = probe(settings(serving.port, search=SEARCH, period=0.5), 0.6)
    assert serving.names[:5] == [*(f"{NAME}.{domain}" for domain in SEARCH), NAME]
    assert seen["resolution.queries"] == 5
    assert seen["queries"] == len(serving.queries)
    assert seen.answers["nxdomain"] >= 4
    assert seen["resolution.failures"] == 0


@pytest.mark.parametrize(("records", "rcode"), [((), 0), ((ALIAS,), 0), ((), 2), ((), 3)], ids=str)
def test_no_data_and_servfail_lead_on_through_the_search_list(records: Sequence[bytes], rcode: int) -> None:
    with resolver(lambda query: [reply(query, rcode, records)]) as serving:
        seen = probe(settings(serving.port, search=SEARCH, period=0.3), 0.5)
    assert seen["resolution.queries"] == 5
    assert seen["resolution.failures"] == seen["resolutions"] > 0


def test_a_refusal_and_silence_end_a_resolution() -> None:
    for answer in (lambda query: [reply(query, 5, ())], lambda _: []):
        with resolver(answer) as serving:
            seen = probe(settings(serving.port, search=SEARCH))
        assert seen["resolution.queries"] == 1
        assert seen["resolution.failures"] == seen["resolutions"] > 0


def test_a_first_label_that_is_a_star_is_a_new_one_each_time() -> None:
    with resolver(lambda query: [reply(query)]) as serving:
        probe(settings(serving.port, names=("*.store.example.",)))
    assert len(set(serving.names)) == len(serving.names) >= 4
    assert {name.partition(".")[2] for name in serving.names} == {"store.example"}


def test_queries_keep_their_ceiling_and_their_distance() -> None:
    names = [f"n{number}.example." for number in range(8)]
    with resolver(lambda query: [reply(query)]) as serving:
        asked, loop = settings(serving.port, names=names, period=0.1, rate=20), Loop()
        DnsProber(loop, asked, "h1", Store(prober_tables(1, asked)), ResultRing(16)).start()
        loop.after(1.5, loop.stop)
        loop.run()
    gaps = [later - sooner for sooner, later in zip(serving.moments, serving.moments[1:], strict=False)]
    assert len(serving.queries) <= 1.5 * 20 + 1, "80 a second were asked for"
    assert sum(gap < 0.03 for gap in gaps) <= len(gaps) / 4, "not in bursts; this machine may be busy"


def test_lookups_share_the_period_and_hosts_begin_at_other_moments() -> None:
    def first_moments(host: str) -> list[float]:
        loop = Loop()
        prober = DnsProber(loop, asked, host, Store(prober_tables(1, asked)), ResultRing(16))
        prober.start()
        return [lookup.due_ns / 1e9 for lookup in prober._lookups]

    asked = settings(1, 2, names=("a.", "b."), period=100)
    spread = sorted(moment % 100 for moment in first_moments("h1"))
    gaps = [b - a for a, b in zip(spread, [*spread[1:], spread[0] + 100], strict=True)]
    assert gaps == pytest.approx([25] * 4, abs=0.1)
    fleet = {round(first_moments(f"host-{number}")[0] % 25, 1) for number in range(100)}
    assert len(fleet) > 60


def test_a_stall_of_the_prober_is_no_timeout_and_no_slow_answer() -> None:
    """Answers that waited in the socket are answers with the kernel's time; missed periods are unsent."""

    def late(query: bytes) -> list[bytes]:
        time.sleep(0.04)  # the prober is stalled by then
        return [*[b"forged"] * 100, reply(query)]

    with resolver(late) as serving:
        asked = settings(serving.port, period=0.2, timeout=0.15)

        def stall(loop: Loop) -> None:
            def sleep_once_asked() -> None:
                if serving.queries and not stalled:
                    stalled.append(True)
                loop.at(loop.clock(), sleep_once_asked) if not stalled else time.sleep(1)

            sleep_once_asked()

        stalled: list[bool] = []
        seen = probe(asked, 1.5, stall)
    assert seen["unsent"] >= 3
    assert seen["timeouts"] == 0
    assert seen.answers["noerror"] == seen["queries"] == len(serving.queries)
    assert sum(seen.durations[0][:8]) == seen["queries"], "none took 100 ms"


def test_what_the_host_cannot_send_is_unsent(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_descriptor_left(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("exporter.probing.dns.prober.open_flow", no_descriptor_left)
    seen = probe(settings(9))
    assert seen["unsent"] >= 4
    assert seen["queries"] == seen["resolutions"] == 0


def test_series_are_as_many_as_the_formulas_say() -> None:
    with resolver(lambda query: [reply(query)]) as serving:
        asked = settings(serving.port, free_port(address="127.0.0.1"), names=("a.", "b.", "c."))
        store, loop = Store(prober_tables(1, asked)), Loop()
        DnsProber(loop, asked, "h1", store, ResultRing(16)).start()
        loop.after(0.5, loop.stop)
        loop.run()
    lines = [line for line in Renderer().render([store]).decode().splitlines() if line.startswith("fabric_dns_")]
    terms = dict.fromkeys(SERIES_TERMS, 0) | {"resolvers": 2, "names": 3}
    for metric in CATALOGUE:
        if metric.name.startswith("fabric_dns_"):
            pattern = tuple(metric.name + end for end in ("{", "_bucket{", "_sum{", "_count{"))
            counted = sum(line.startswith(pattern) for line in lines)
            assert counted <= metric.series_bound(terms), metric.name
            if metric.kind != "gauge":  # a resolver that never answered has no round trip
                assert counted == metric.series_bound(terms), metric.name


# ---- as an operator runs it


def test_an_exporter_with_a_section_dns_serves_what_it_measured(tmp_path: Path) -> None:
    with resolver(lambda query: [reply(query, *((0,) if asked_name(query) == NAME else (3, ())))]) as serving:
        extra = (
            f"dns: {{names: [{NAME}], resolvers: ['127.0.0.1:{serving.port}'], search: [cluster.local], ndots: 5,"
            " period_seconds: 1}\n"
        )
        exporter = RunningExporter(tmp_path / "exporter", extra)
        try:
            labels = {"host": "host-127.0.0.2", "resolver": f"127.0.0.1:{serving.port}"}
            until(lambda: (exporter.value("fabric_dns_resolutions_total", **labels) or 0) >= 2)
            assert exporter.value("fabric_dns_resolution_queries", **labels) == 2
            assert (exporter.value("fabric_dns_answers_total", **labels, rcode="nxdomain") or 0) >= 2
            assert exporter.value("fabric_dns_resolution_failures_total", **labels) == 0
            assert (exporter.value("fabric_dns_query_duration_seconds_count") or 0) >= 4
        finally:
            assert exporter.stop() == 0
