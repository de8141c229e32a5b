"""``python -m worker.cli`` is ``session-worker``, also where the script is not on the path."""

from worker.cli import main

main()
