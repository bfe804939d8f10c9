"""Run worker.py as a service: python server.py (in this directory)."""

import cluster_service as cservice


def stopped(event):
    print(f"worker {event.pid} is asked to end: {event.reason}", flush=True)


if __name__ == "__main__":
    cservice.start(
        "./worker.py",
        worker_count=2,
        access_key="lksjdf982734",
        remote_commands=["restart"],  # over HTTP; the Unix socket may give every command
        on_worker_stop=stopped,
    )
