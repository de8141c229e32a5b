"""Stack traces as people read them at a terminal: in colours, and a handler's without our own frames."""

from __future__ import annotations

import asyncio
import os
import re
from concurrent import futures
from pathlib import Path

from structlog import dev

_BETWEEN = "|".join(
    re.escape(f"{folder}{os.sep}")
    for folder in (
        Path(__file__).parents[1],
        Path(asyncio.__file__).parent,
        Path(futures.__file__).parent,
    )
)
"""Where the frames are between the worker and a handler, which may run in a thread."""
_HEADING = r"^.*Traceback \(most recent call last\):\n"
_CODE = r'(?:(?![ |]*File ")[ |]* {4}.*\n)*'
_OURS = re.compile(rf'({_HEADING})(?:[ |]*File "(?:{_BETWEEN})[^"\n]+", line .*\n{_CODE})+', re.MULTILINE)
_NO_FRAMES = re.compile(rf"{_HEADING}(?=\S)", re.MULTILINE)

_PLACE = re.compile(r'^([ |]*File )("[^"\n]+")(, line )(\d+)(, in )(.+)$', re.MULTILINE)
_ERROR = re.compile(r"^((?:[ |]*\| )?)([\w.]+)((?:: .*)?)$", re.MULTILINE)


def of_handler(text: str) -> str:
    """The stack trace from the handler's own frame on: its callers are left out."""
    return _NO_FRAMES.sub("", _OURS.sub(r"\1", text))


def coloured(text: str) -> str:
    """The same text, with places and errors in colours."""
    bright, end = dev.BRIGHT, dev.RESET_ALL
    text = _ERROR.sub(rf"\1{dev.RED}{bright}\2{end}{bright}\3{end}", text)
    return _PLACE.sub(rf"\1{dev.CYAN}\2{end}\3{dev.CYAN}\4{end}\5{bright}\6{end}", text)
