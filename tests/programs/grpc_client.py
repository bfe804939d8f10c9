"""Asks a gRPC server for its pid, on a new connection each time, until COUNT different ones have answered."""

import sys

import grpc

seen = set()
for _ in range(1000):
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(f"127.0.0.1:{sys.argv[1]}", options) as channel:
        seen.add(channel.unary_unary("/test/Pid")(b"", timeout=20).decode())
    if len(seen) == int(sys.argv[2]):
        break
print("\n".join(seen))
