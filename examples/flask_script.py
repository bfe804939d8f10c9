"""A Flask app on Flask's development server.

    python flask_script.py
    cservice start -w 2 flask_script.py
"""

import os

from flask import Flask

app = Flask(__name__)


@app.get("/")
def hello():
    return f"hello from {os.getpid()}\n"


if __name__ == "__main__":
    app.run(port=int(os.environ.get("PORT", "8000")))
