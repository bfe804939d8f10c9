"""The plain server beside more threads than are told of: argv: port."""

import runpy
import threading

for _ in range(150):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
runpy.run_path("script.py")
