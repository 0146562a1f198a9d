"""Conversations over UDP between two nodes, from many source ports: what lives and what dies, flow by flow."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from lab.running import Running

PORT = 33600
_ECHO = """
import select, socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE: what arrives at once shall not overflow
s.bind((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
while sys.stdin not in select.select([s, sys.stdin], [], [])[0]:  # closed by whoever started this
    data, address = s.recvfrom(9000)
    s.sendto(data, address)
"""
_ASK = """
import json, select, socket, sys, time
own, there, port, first, count, packets, seconds, patience = sys.argv[1], sys.argv[2], *map(float, sys.argv[3:])
answers = {}
sockets = {}
for number in range(int(first), int(first + count)):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind((own, number))
    s.setblocking(False)
    answers[number] = 0
    sockets[s] = number
def hear(seconds):
    for s in select.select(list(sockets), [], [], seconds)[0]:
        try:
            s.recv(9000)
        except OSError:
            continue
        answers[sockets[s]] += 1
        yield s
begin = time.monotonic()
for turn in range(int(packets)):
    for place, s in enumerate(sockets):
        s.sendto(b"x", (there, int(port)))
        if place % 16 == 0:
            for _ in hear(0): pass
            time.sleep(0.0005)
    while (left := begin + (turn + 1) * seconds / packets - time.monotonic()) > 0:
        for _ in hear(left): pass
while sum(answers.values()) < packets * len(sockets) and any(True for _ in hear(patience)):
    pass
print(json.dumps(answers))
"""


@contextmanager
def echo(fabric: Running, node: str, address: str) -> Iterator[None]:
    """An echo server on ``address``."""
    argv = fabric.command(node, [sys.executable, "-c", _ECHO, address, str(PORT)])
    server = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert server.stdin is not None
    assert server.stdout is not None
    with server.stdout:
        assert server.stdout.readline() == b"ready\n"
        try:
            yield
        finally:
            server.stdin.close()  # a signal would reach only the process that entered the sandbox
            server.wait()


def ask_words(
    own: str, there: str, *, count: int, packets: int = 3, seconds: float = 0, first: int = 20000
) -> list[str]:
    """A command that sends ``packets`` from each of ``count`` ports within ``seconds``, and prints the replies."""
    return [sys.executable, "-c", _ASK, own, there, *map(str, (PORT, first, count, packets, seconds, 0.4))]


def ask(fabric: Running, node: str, own: str, there: str, *, count: int, packets: int = 3) -> dict[int, int]:
    """Replies by source port."""
    answer = fabric.run(node, ask_words(own, there, count=count, packets=packets)).stdout
    return {int(port): replies for port, replies in json.loads(answer).items()}
