"""The cluster's resolver, with a bound that real ones have, and the caching resolvers on the hosts that relieve it.

BIND's ``named`` on the services host holds the cluster's zone, takes dynamic updates (RFC 2136) as registrations and
hands every other name to the resolver of the second site, as a cluster's DNS hands them to the organisation's. Each
client that waits for that answer holds one of ``recursive-clients`` places (BIND's manual; the same bound is
``max_concurrent`` of CoreDNS's forward plugin). So the capacity is places divided by the time an answer takes from
the other site. Past it named aborts who has waited longest and then refuses who comes ("no more recursive clients"):
SERVFAIL or no answer at all, and an asker who gets none waits for its time-out. Of clients with one and the same
question it keeps ten at first (``clients-per-query``). Resolvers hit these bounds before that of a CPU. A third is
the socket's buffer: with Linux's default of 212,992 bytes 256 questions fit, and a longer burst is cut off.

The fix is that of NodeLocal DNSCache: ``unbound`` on each host answers what it knows, asks for the cluster's names
only the cluster's resolver, for all others the second site's itself, and asks each question once however many wait.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lab.errors import LabError
from lab.network import delay
from lab.network.design import Design, Host
from lab.network.dns import PORT
from lab.sandbox import environment, find
from lab.sandbox.netns import inside

ZONE = "cluster.local"
# Where Debian's AppArmor profiles let these programs read and write; private, empty directories inside a sandbox.
BIND_CONFIGURATION, BIND_DATA = Path("/etc/bind"), Path("/var/cache/bind")
UNBOUND_CONFIGURATION, UNBOUND_DATA = Path("/etc/unbound"), Path("/var/lib/unbound")
STATISTICS_PORT = 8053
QUEUE = 53
WORDS = ("acorn", "birch", "cedar", "fennel", "hazel", "juniper", "larch", "mallow")


@dataclass(frozen=True)
class Plan:
    """Names and bounds, drawn from the lab's seed.

    ``places`` is ``recursive-clients``. BIND's default is 1,000; one machine's worth of endpoints gets fewer, so that
    the burst is to the bound what a large job's is on a cluster.
    """

    host: str  # where the resolver is
    address: str
    upstream_host: str
    upstream: str
    domain: str  # the organisation's, served at the second site
    store: str  # the checkpoint store's name in it; a job's bucket has a name below
    store_address: str
    upstream_microseconds: float  # what the upstream takes to find an answer itself
    places: int = 30

    @property
    def search(self) -> tuple[str, ...]:
        """The search list of a container in namespace ``training``."""
        return (f"training.svc.{ZONE}", f"svc.{ZONE}", ZONE, self.domain)


def plan(design: Design) -> Plan:
    """The resolver of a lab; raise LabError when it has no services host."""
    if design.transit is None:
        raise LabError("this lab has no resolver", "python -m lab up --transit")
    rng = random.Random(f"resolver {design.seed}")
    services, store = (design.service_host(name) for name in (design.transit.services, design.transit.store))
    domain = f"{rng.choice(WORDS)}-{rng.randrange(16**4):04x}.example"  # RFC 2606
    return Plan(
        host=services.name,
        address=services.rnics[0].address,
        upstream_host=store.name,
        upstream=store.rnics[0].address,
        domain=domain,
        store=f"checkpoints.{domain}",
        store_address=store.rnics[0].address,
        upstream_microseconds=round(1e3 * rng.uniform(30, 60)),
    )


def start(design: Design, daemon: Callable[..., object], timeout: float = 15) -> None:
    """Start the resolver and its upstream, when the lab has them; ``daemon(name, argv, node=...)`` starts a process.

    Return once both answer.
    """
    if design.transit is None:
        return
    drawn = plan(design)
    management = {host.name: host.management for host in design.service_hosts}
    _named(daemon, drawn.host, _resolver_configuration(drawn, management[drawn.host]), {ZONE: _cluster_zone(drawn)})
    upstream = {drawn.domain: _domain_zone(drawn)}
    _named(daemon, drawn.upstream_host, _upstream_configuration(drawn, management[drawn.upstream_host]), upstream)
    stage = delay.Stage(
        drawn.upstream_host, QUEUE, drawn.upstream_microseconds, match=f"udp dport {PORT}", hook="input"
    )
    delay.begin(stage, lambda argv: daemon(f"delay-{drawn.upstream_host}", argv))
    deadline = time.monotonic() + timeout
    for node, address, name in (
        (drawn.host, drawn.address, f"ns.{ZONE}"),
        (drawn.upstream_host, drawn.upstream, drawn.store),
    ):
        while not _answers(node, address, name):
            if time.monotonic() > deadline:
                raise LabError(f"named of {node} does not answer after {timeout:g} s", f"see logs/named-{node}.log")
            time.sleep(0.05)


def _named(daemon: Callable[..., object], node: str, configuration: str, zones: dict[str, str]) -> None:
    home, data = BIND_CONFIGURATION / node, BIND_DATA / node
    for directory in (home, data):
        directory.mkdir(parents=True, exist_ok=True)
    (home / "named.conf").write_text(configuration)
    for zone, text in zones.items():
        (data / f"{zone}.zone").write_text(text)
    # One thread: a burst is to be met by a bound that is known, not by the number of this machine's cores.
    daemon(f"named-{node}", ["named", "-g", "-n", "1", "-c", str(home / "named.conf")], node=node)


def _options(node: str, address: str, management: str, *lines: str) -> str:
    inner = "\n".join(f"    {line}" for line in lines)
    return f"""\
options {{
    directory "{BIND_DATA / node}";
    pid-file none;
    lock-file none;
    session-keyfile none;
    listen-on {{ {address}; 127.0.0.1; }};
    listen-on-v6 {{ none; }};
    allow-query {{ any; }};
    dnssec-validation no;
    notify no;
{inner}
}};
controls {{ }};
statistics-channels {{ inet {management} port {STATISTICS_PORT}; }};
"""


def _resolver_configuration(drawn: Plan, management: str) -> str:
    options = _options(
        drawn.host,
        drawn.address,
        management,
        "recursion yes;",
        "allow-recursion { any; };",
        "forward only;",
        f"forwarders {{ {drawn.upstream}; }};",
        f"recursive-clients {drawn.places};",
        # Its default, 100, drops most of 500 registrations at once, which no cache would mend.
        "update-quota 1000;",
    )
    zone = f'type primary; file "{ZONE}.zone"; allow-update {{ any; }};'
    return f'{options}zone "{ZONE}" {{ {zone} }};\n'


def _upstream_configuration(drawn: Plan, management: str) -> str:
    options = _options(drawn.upstream_host, drawn.upstream, management, "recursion no;")
    return f'{options}zone "{drawn.domain}" {{ type primary; file "{drawn.domain}.zone"; }};\n'


def _zone(address: str, *records: str, negative_seconds: int) -> str:
    start = f"@ IN SOA ns hostmaster 1 3600 600 86400 {negative_seconds}"
    return "\n".join(("$TTL 30", start, "@ IN NS ns", f"ns IN A {address}", *records)) + "\n"


def _cluster_zone(drawn: Plan) -> str:
    return _zone(drawn.address, negative_seconds=5)  # as CoreDNS's kubernetes plugin


def _domain_zone(drawn: Plan) -> str:
    return _zone(
        drawn.upstream,
        f"checkpoints IN A {drawn.store_address}",
        f"*.checkpoints IN A {drawn.store_address}",
        negative_seconds=30,
    )


def _answers(node: str, address: str, name: str) -> bool:
    with inside(node):
        done = subprocess.run(
            ["dig", "+short", "+tries=1", "+time=1", f"@{address}", name, "A"],
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
    return done.returncode == 0 and bool(done.stdout.strip())


# ---- the fix


def _cache_configuration(drawn: Plan, host: Host) -> str:
    address = host.rnics[0].address
    return f"""\
server:
    interface: {address}
    interface: 127.0.0.1
    access-control: 0.0.0.0/0 allow
    directory: "{UNBOUND_DATA / host.name}"
    chroot: ""
    username: ""
    pidfile: "{UNBOUND_DATA / host.name}/unbound.pid"
    use-syslog: no
    logfile: "{UNBOUND_DATA / host.name}/unbound.log"
    num-threads: 1
    outgoing-interface: {address}
    do-ip6: no
    module-config: "iterator"
    # The zone may say nothing of its own trust, and names reserved for testing are the lab's.
    domain-insecure: "{ZONE}"
    local-zone: "{drawn.domain}." transparent
remote-control:
    control-enable: no
stub-zone:
    name: "{ZONE}"
    stub-addr: {drawn.address}
    stub-no-cache: no
forward-zone:
    name: "."
    forward-addr: {drawn.upstream}
"""


def start_caches(design: Design) -> None:
    """Put a caching resolver on every host; those that run stay."""
    drawn = plan(design)
    program = find("unbound")
    for host in design.hosts:
        if cache_process(host.name) is not None:
            continue
        (UNBOUND_DATA / host.name).mkdir(parents=True, exist_ok=True)
        file = UNBOUND_CONFIGURATION / f"{host.name}.conf"
        file.write_text(_cache_configuration(drawn, host))
        with inside(host.name):
            done = subprocess.run(
                [program, "-c", str(file)], env=environment(), capture_output=True, text=True, check=False
            )
        if done.returncode:
            raise LabError(f"unbound on {host.name}: {' '.join(done.stderr.split())}")


def stop_caches(design: Design) -> None:
    """Take the caching resolvers away; harmless when there are none."""
    for host in design.hosts:
        process = cache_process(host.name)
        if process is not None:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)
        deadline = time.monotonic() + 5
        while cache_process(host.name) is not None and time.monotonic() < deadline:
            time.sleep(0.02)
        shutil.rmtree(UNBOUND_DATA / host.name, ignore_errors=True)


def cache_process(host: str) -> int | None:
    """The identifier of the caching resolver on a host; None when there is none."""
    try:
        process = int((UNBOUND_DATA / host / "unbound.pid").read_text())
        return process if Path(f"/proc/{process}/comm").read_text().strip() == "unbound" else None
    except (OSError, ValueError):
        return None


def resolver_of(design: Design, host: Host) -> str:
    """The address that the resolv.conf of a host's containers names."""
    return host.rnics[0].address if cache_process(host.name) is not None else plan(design).address
