"""`session-worker dead redrive` that kills itself at one step of a letter; see `crashing_worker`.

python -m tests.faults.crashing_redrive --at confirmed --count 17
"""

from __future__ import annotations

import argparse
import sys

from session_worker import cli
from tests.faults.crashing_worker import STEPS as WORKER_STEPS
from tests.faults.crashing_worker import Fuse, ledger_step

STEPS = {
    "before-reopen": ledger_step("reopen", after=False),
    "reopened": ledger_step("reopen", after=True),
    **{
        name: WORKER_STEPS[name]
        for name in ("before-publish", "sent", "confirmed", "before-ack", "after-ack")
    },
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--at", choices=STEPS, required=True)
    parser.add_argument("--count", type=int, default=1)
    given = parser.parse_args()
    STEPS[given.at](Fuse(given.count))
    sys.argv[1:] = ["dead", "redrive", "--yes"]
    cli.main()


if __name__ == "__main__":
    main()
