"""From a port on the machine to a port inside the sandbox: ``python -m lab.demo.forward FD=ADDRESS:PORT ...``

The listening sockets come from outside as inherited descriptors (``lab.sandbox.listen``, ``pass_fds``),
so a browser reaches what runs inside although no interface joins the two.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import sys

CHUNK = 65536


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until the sender has finished, then finish towards the receiver."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


async def serve(listener: socket.socket, address: str, port: int) -> None:
    """Join every connection that ``listener`` accepts to ``address:port`` inside; runs until cancelled."""

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_connection(address, port)
        except OSError:
            writer.close()  # nobody is there (yet): the caller sees a closed connection and tries again
            return
        try:
            await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))
        finally:
            inner_writer.close()
            writer.close()

    server = await asyncio.start_server(join, sock=listener)
    async with server:
        await server.serve_forever()


def _mapping(word: str) -> tuple[int, str, int]:
    descriptor, _, rest = word.partition("=")
    address, _, port = rest.rpartition(":")
    return int(descriptor), address, int(port)


async def _serve_all(mappings: list[tuple[int, str, int]]) -> None:
    await asyncio.gather(
        *(serve(socket.socket(fileno=descriptor), address, port) for descriptor, address, port in mappings)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mappings", nargs="+", type=_mapping, metavar="FD=ADDRESS:PORT")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve_all(parser.parse_args().mappings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
