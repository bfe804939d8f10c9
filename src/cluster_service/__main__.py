"""``python -m cluster_service``: the same as ``cservice``."""

from __future__ import annotations

from .control.cli import main

if __name__ == "__main__":
    main()
