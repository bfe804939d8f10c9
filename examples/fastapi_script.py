"""A FastAPI app on uvicorn, started by the script itself.

    python fastapi_script.py
    cservice start -w 2 fastapi_script.py
"""

import os

import uvicorn
from fastapi import FastAPI

app = FastAPI()


@app.get("/")
async def hello():
    return {"hello": os.getpid()}


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
