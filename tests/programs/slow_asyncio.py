"""A server of asyncio streams, with no handler of SIGTERM, that answers when a line has come, after a while."""

import asyncio
import os
import sys

SECONDS = float(os.environ.get("SECONDS", "1.5"))


async def serve(reader, writer):
    head = await reader.readuntil(b"\r\n\r\n")
    size = 0
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            size = len(await reader.readexactly(int(line.split(b":")[1])))
    if b"/slow" in head:
        await asyncio.sleep(SECONDS)
    body = str(size).encode()
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    await writer.drain()
    writer.close()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()


asyncio.run(main())
