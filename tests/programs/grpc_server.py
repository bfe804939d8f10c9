"""A grpcio server: /test/Pid answers with the pid."""

import os
import sys
from concurrent import futures

import grpc


def pid(request, context):
    return str(os.getpid()).encode()


server = grpc.server(futures.ThreadPoolExecutor(4))
handlers = {"Pid": grpc.unary_unary_rpc_method_handler(pid)}
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", handlers),))
server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
server.start()
server.wait_for_termination()
