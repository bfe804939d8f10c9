"""Run uvicorn without its access log, from a script: serve the app of examples/asgi_app.py on the port in PORT."""

import os
import sys
from pathlib import Path

import uvicorn

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

if __name__ == "__main__":
    uvicorn.run("asgi_app:app", port=int(os.environ["PORT"]), access_log=False)
