"""A web shop: GET /buy/NUMBER sells an apple and publishes an event. It also runs without the service."""

import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cluster_service as cservice

prices = {"apple": 3}


@cservice.on_message
def new_prices(message):
    prices.update(message)
    print(f"{os.getpid()}: an apple is {prices['apple']} now", flush=True)


class Shop(BaseHTTPRequestHandler):
    def do_GET(self):
        number = self.path.rpartition("/")[2]
        cservice.trigger("order_paid", number=number, amount=prices["apple"])
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"sold by {os.getpid()} for {prices['apple']}\n".encode())


server = ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "8000"))), Shop)
print(f"{os.getpid()} sells on http://localhost:{server.server_port}/buy/1", flush=True)
cservice.worker_ready()
server.serve_forever()
