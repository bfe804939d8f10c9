"""The file that a worker's interpreter runs: ``python …/worker/entry_point.py script|module|app …`` (``startup.main``).

Any Python version must be able to parse it, to report that it is too old. Run as a program it becomes the worker; under
another name (in a process that ``multiprocessing`` spawns from a worker) it only makes the package importable.

The package is loaded from the directory above this file, without a change to ``sys.path``: the virtualenv of the worker
stays as it is. If that contains another cluster_service, the one of the running service is still used, because both
ends of the channel must have the same version.
"""

import os
import sys

at_start = frozenset(sys.modules)  # the modules that a script run alone finds imported

if sys.version_info < (3, 9):  # noqa: UP036 - the interpreter of the user may be any
    sys.exit(
        "cservice: a worker needs Python 3.9 or newer, and %s is %d.%d; choose another with --python"  # noqa: UP031 - any Python must parse it
        % ((sys.executable,) + tuple(sys.version_info[:2]))  # noqa: RUF005 - the same
    )

if __name__ == "__main__" and sys.path and os.path.realpath(sys.path[0]) == os.path.dirname(os.path.realpath(__file__)):
    del sys.path[0]  # the program must not import from this directory

if "cluster_service" not in sys.modules:
    import importlib.util

    home = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    spec = importlib.util.spec_from_file_location(
        "cluster_service", os.path.join(home, "__init__.py"), submodule_search_locations=[home]
    )
    if spec is None or spec.loader is None:
        sys.exit("cservice: cannot load the package cluster_service from " + home)
    sys.modules["cluster_service"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["cluster_service"])

if __name__ == "__main__":
    from cluster_service.worker.startup import main

    main(sys.argv[1:], at_start)
