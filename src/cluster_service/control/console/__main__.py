"""``python -m cluster_service.control.console``: the console on the terminal of a service."""

from .beside import main

main()
