"""Run worker.py as a service with custom commands and events: python server.py (in this directory)."""

import time
from typing import Literal

import cluster_service as cservice

orders = {}


@cservice.command("greet")
def greet(context, name: str = "you", *, mood: Literal["glad", "sad"] = "glad"):
    """Return a greeting."""
    return f"hello {name}, from {context.service}, {mood} to see you"


@cservice.command("orders", access="remote")
def list_orders():
    """List the orders that the workers have reported."""
    return [{"order": number, "amount": amount} for number, amount in orders.items()]


@cservice.command("prices")
def set_prices(context, prices: dict):
    """Send new prices to all workers."""
    return f"{context.broadcast(prices)} workers took them"


@cservice.command("health")
def health():
    """Add to what `cservice health` shows."""
    return {"orders": len(orders)}


@cservice.command("refresh")
async def refresh(context, group: str = "all"):
    """Restart the workers and show how long it took."""
    began = time.monotonic()
    operation = await context.command("restart", group)
    ended = await context.follow(operation)
    return f"{ended['state']} in {time.monotonic() - began:.1f} s"


@cservice.on("order_paid")
def paid(event):
    orders[event.number] = event.amount
    print(f"order {event.number} was paid: {event.amount}", flush=True)


if __name__ == "__main__":
    cservice.start("./worker.py", worker_count=2)
