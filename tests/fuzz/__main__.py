"""``python -m tests.fuzz body|properties [libFuzzer's options]``: drive a target with atheris."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import atheris

with atheris.instrument_imports(
    include=["session_contracts", "session_worker", "pamqp", "tests.fuzz.targets"]
):
    from tests.fuzz.targets import body_holds, properties_hold

TARGETS = {"body": body_holds, "properties": properties_hold}


def main() -> None:
    name, *options = sys.argv[1:] or ["body"]
    corpus = Path(__file__).parent / "corpus" / name
    with TemporaryDirectory() as found:  # new inputs that reach new code go into the first folder
        atheris.Setup([sys.argv[0], *options, found, str(corpus)], TARGETS[name])
        atheris.Fuzz()


main()
