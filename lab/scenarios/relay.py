"""Ports of the lab that lead into containers: ``python -m lab.scenarios.relay PORT=NAMESPACE:PORT ...``

An agent in a container listens there alone, as a sidecar does; a site's Prometheus reaches it over the network of the
pods, which the lab does not have.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Sequence

from lab.demo.forward import pump
from lab.sandbox.netns import socket_in


async def _serve(port: int, namespace: str, inner: int) -> None:
    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = socket_in(namespace)
            there.setblocking(False)
            await asyncio.get_running_loop().sock_connect(there, ("127.0.0.1", inner))
            inner_reader, inner_writer = await asyncio.open_connection(sock=there)
        except Exception:  # noqa: BLE001 - nobody there, or no container any more: the caller sees a closed connection
            writer.close()
            return
        try:
            await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))
        finally:
            inner_writer.close()
            writer.close()

    server = await asyncio.start_server(join, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


def _mapping(word: str) -> tuple[int, str, int]:
    port, _, rest = word.partition("=")
    namespace, _, inner = rest.rpartition(":")
    return int(port), namespace, int(inner)


async def _serve_all(mappings: Sequence[tuple[int, str, int]]) -> None:
    await asyncio.gather(*(_serve(*mapping) for mapping in mappings))


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.scenarios.relay", description=__doc__)
    parser.add_argument("mappings", nargs="+", type=_mapping, metavar="PORT=NAMESPACE:PORT")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve_all(parser.parse_args(words).mappings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
