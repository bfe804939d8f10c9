"""``python -m cluster_service.master``: the master without a user's program. The guardian starts it."""

from __future__ import annotations

import sys

from .main import main

sys.exit(main())
