"""Resolvers: whether they answer, how soon, and whether a job's start overloads them."""

from __future__ import annotations

from grafana.board import Board, Row
from grafana.panels import GREEN, ORANGE, RED, Query, counted, density, number, states, trend
from grafana.variables import several
from skeleton_service.jobalerts import firing

_RESOLVERS = '{resolver=~"$resolver"}'
_ASKED = '{resolver=~"$resolver", host=~"$host"}'
_ALERTS = firing('alertname=~"Fabric.*(Dns|Resol).*"')
_FAILING = ((None, GREEN), (0.01, ORANGE), (0.1, RED))

BOARD = Board(
    "fabric-dns",
    "DNS",
    "Resolvers: whether they answer, how soon, and whether a job's start overloads them.",
    [
        Row(
            "As hosts see them",
            [
                number(
                    "Worst failure ratio",
                    "Of the questions to a resolver about a name.",
                    "percentunit",
                    Query(f"max(resolver_name:fabric_dns_failures:ratio_rate{_RESOLVERS})"),
                    levels=_FAILING,
                    nothing="not asked",
                ),
                number(
                    "Hosts that fail alone",
                    "Hosts to which a resolver answers badly while it answers others.",
                    "short",
                    Query(
                        counted(
                            f"host_resolver:fabric_dns_deaf:ratio_rate{_ASKED}",
                            f"host_resolver:fabric_dns_queries:rate{_ASKED}",
                        )
                    ),
                    levels=((None, GREEN), (1e-9, ORANGE)),
                ),
                states(
                    "Alerts",
                    "Of resolvers and cluster DNS.",
                    Query(
                        f"max by (alertname, component) ({_ALERTS})",
                        "{{alertname}} {{component}}",
                    ),
                    {"1": ("firing", RED)},
                    width=16,
                    height=4,
                ),
                trend(
                    "Failures",
                    "Share of the questions that timed out, found nobody, or were refused, by resolver and name.",
                    "percentunit",
                    Query(
                        f"topk(12, resolver_name:fabric_dns_failures:ratio_rate{_RESOLVERS})", "{{resolver}} {{name}}"
                    ),
                    levels=_FAILING,
                    width=8,
                ),
                density(
                    "How soon they answer",
                    "All questions of all hosts, by how many took how long.",
                    "s",
                    Query(
                        f"sum by (le) (rate(fabric_dns_query_duration_seconds_bucket{_ASKED}[$__rate_interval]))",
                        "{{le}}",
                    ),
                    width=8,
                ),
                trend(
                    "Answers by code",
                    "SERVFAIL and REFUSED are a resolver in trouble.",
                    "cps",
                    Query(f"sum by (rcode) (rate(fabric_dns_answers_total{_ASKED}[$__rate_interval]))", "{{rcode}}"),
                    width=8,
                ),
            ],
        ),
        Row(
            "Cluster DNS, of Kubernetes",
            [
                trend(
                    "Questions",
                    "A second, by namespace of the resolver.",
                    "cps",
                    Query("sum by (namespace) (namespace:coredns_dns_requests:rate)", "{{namespace}}"),
                    width=6,
                ),
                trend(
                    "99 of 100 answered within",
                    "By CoreDNS' own histogram.",
                    "s",
                    Query("max by (namespace) (namespace:coredns_dns_request_duration_seconds:p99)", "{{namespace}}"),
                    width=6,
                ),
                trend(
                    "CPU of its pods",
                    "Share of their limit.",
                    "percentunit",
                    Query("topk(12, max by (namespace, pod) (pod:coredns_cpu_usage:ratio_rate))", "{{pod}}"),
                    levels=((None, GREEN), (0.8, ORANGE), (0.95, RED)),
                    width=6,
                ),
                trend(
                    "Answered from caches",
                    "Share of questions that node-local caches, and CoreDNS' own, answered: back up, it is over.",
                    "percentunit",
                    Query(
                        "max by (namespace) (namespace:node_local_dns_cache_hits:ratio_rate)",
                        "node-local {{namespace}}",
                    ),
                    Query("max by (namespace) (namespace:coredns_cache_hits:ratio_rate)", "CoreDNS {{namespace}}"),
                    width=6,
                ),
                trend(
                    "Pods made",
                    "Within a minute: what registers and resolves at once.",
                    "short",
                    Query("max(cluster:kube_pod_created:count1m)", "pods"),
                    width=6,
                ),
            ],
            collapsed=True,
        ),
    ],
    [
        several("resolver", "Resolver", "label_values(fabric_dns_queries_total, resolver)"),
        several("host", "Host", "label_values(fabric_dns_queries_total, host)"),
    ],
    alerts=_ALERTS,
    runbook="FabricResolverFailing.md",
)
