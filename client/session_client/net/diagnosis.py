"""What is wrong and what to do about it, kept apart, so that nobody has to split a sentence."""

from __future__ import annotations

from typing import NamedTuple


class Diagnosis(NamedTuple):
    """``str()`` makes one sentence of both parts. ``fix`` is empty where nothing is to be done."""

    what: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.what}; {self.fix}" if self.fix else self.what


class DiagnosedError(Exception):
    """An error that people read. Its text is the sentence; ``what`` and ``fix`` are the parts of it."""

    def __init__(self, what: Diagnosis | str, fix: str = "") -> None:
        diagnosis = what if isinstance(what, Diagnosis) else Diagnosis(what, fix)
        super().__init__(str(diagnosis))
        self.what, self.fix = self.diagnosis = diagnosis


class InvalidValueError(DiagnosedError, ValueError):
    """A value that people wrote cannot be used. The parts quote nothing of it, for it may be a secret."""
