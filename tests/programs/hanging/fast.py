"""An app of FastAPI whose endpoints run in anyio's threads, and stand still there when they are asked to."""

import os
import threading

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

app = FastAPI()


def block_the_thread():
    threading.Event().wait()


@app.get("/gate")
def gate():
    with open(os.environ["GATE"]):
        pass


@app.get("/thread")
def thread():
    block_the_thread()


@app.get("/", response_class=PlainTextResponse)
def root():
    return str(os.getpid())
