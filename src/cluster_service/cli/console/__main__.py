"""``python -m cluster_service.cli.console``: the console on the terminal of a service."""

from .foreground import main

main()
