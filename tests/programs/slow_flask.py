"""Flask's own server, whose answers take their time: /slow, /upload."""

import os
import sys
import time

from flask import Flask, request

app = Flask(__name__)


@app.route("/slow")
def slow():
    time.sleep(float(os.environ.get("SECONDS", "1.5")))
    return "0"


@app.route("/upload", methods=["POST"])
def upload():
    return str(len(request.get_data()))


app.run(port=int(sys.argv[1]))
