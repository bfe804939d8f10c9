"""Flask's development server."""

import os
import sys

from flask import Flask

app = Flask(__name__)


@app.get("/")
def pid():
    return str(os.getpid())


app.run(port=int(sys.argv[1]))
