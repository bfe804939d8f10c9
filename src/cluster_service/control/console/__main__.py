"""``python -m cluster_service.control.console``: the console on a service's own terminal."""

from .beside import main

main()
