"""``python -m session_worker.cli`` is ``session-worker``, also where the script is not on the path."""

import sys
from pathlib import Path

from session_worker import __file__ as ours
from session_worker.cli import main

# Python puts the current folder first, where a folder may be named like a package that the worker needs.
if sys.path[0] == str(Path.cwd()) and Path(ours).parents[1] != Path.cwd():
    del sys.path[0]
main()
