"""The file that a worker's interpreter is given: ``python …/worker/boot.py script|module|app …`` (see ``run.main``).

It must be read by any Python, to say that it is too old. Run as a program it becomes the worker; under any other name
(a process that ``multiprocessing`` spawns from a worker) it only makes the package importable.

The package is loaded from beside this file, under its one name, and nothing is added to ``sys.path``: the worker's
virtualenv stays as its owner made it. Where that virtualenv has a cluster_service of its own, the running service's is
used all the same, because both ends of the channel must be of one version.
"""

import os
import sys

at_start = frozenset(sys.modules)  # what a script finds imported when it runs alone

if sys.version_info < (3, 9):  # noqa: UP036 - the user's interpreter is any
    sys.exit(
        "cservice: a worker needs Python 3.9 or newer, and %s is %d.%d; choose another with --python"  # noqa: UP031
        % ((sys.executable,) + tuple(sys.version_info[:2]))  # noqa: RUF005
    )

if __name__ == "__main__" and sys.path and os.path.realpath(sys.path[0]) == os.path.dirname(os.path.realpath(__file__)):
    del sys.path[0]  # this file's directory is no place for the program's imports

if "cluster_service" not in sys.modules:
    import importlib.util

    home = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    spec = importlib.util.spec_from_file_location(
        "cluster_service", os.path.join(home, "__init__.py"), submodule_search_locations=[home]
    )
    if spec is None or spec.loader is None:
        sys.exit("cservice: its own package is not to be found in " + home)
    sys.modules["cluster_service"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["cluster_service"])

if __name__ == "__main__":
    from cluster_service.worker.run import main

    main(sys.argv[1:], at_start)
