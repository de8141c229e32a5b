"""Evaluating Erlang in a private node, through its standard input and output."""

from __future__ import annotations

import os
import select
import threading
import time
from typing import TYPE_CHECKING, Final

from session_worker.sandbox.workspace import SandboxError

if TYPE_CHECKING:
    import subprocess

# Runs in the node once it has booted: evaluates one expression a line and answers with one line. rabbitmqctl
# starts a virtual machine for every command and takes a second for what this does in milliseconds. When our
# end of the pipe closes, the node ends.
PROGRAM: Final = r"""
Loop = fun(Next) -> case io:get_line("") of
    Line when is_list(Line) ->
        Answer = try
            {ok, Tokens, _} = erl_scan:string(Line),
            {ok, Expressions} = erl_parse:parse_exprs(Tokens),
            {value, Value, _} = erl_eval:exprs(Expressions, []),
            ["ok ", io_lib:format("~0tp", [Value])]
        catch Class:Reason -> ["error ", io_lib:format("~0tp", [{Class, Reason}])] end,
        io:put_chars(["\n@", unicode:characters_to_binary(Answer), "\n"]),
        Next(Next);
    _ -> erlang:halt() end end,
io:put_chars("\n@ok up\n"), Loop(Loop).
"""


class Control:
    """Talks to the `PROGRAM` in a node; several threads may use it."""

    def __init__(self, node: subprocess.Popen[bytes]) -> None:
        assert node.stdin is not None  # noqa: S101 -- for the type checker
        assert node.stdout is not None  # noqa: S101 -- for the type checker
        self._input = node.stdin
        self._output = node.stdout
        self._lock = threading.Lock()
        self._unread = b""

    def wait_up(self, timeout: float) -> None:
        """Wait until the node has booted. Raises SandboxError."""
        self._answer(timeout)

    def eval(self, expression: str, timeout: float) -> str:
        """The value of an Erlang expression as text. Raises SandboxError."""
        with self._lock:
            try:
                self._input.write(" ".join(expression.split()).encode() + b".\n")
                self._input.flush()
            except BrokenPipeError:
                raise SandboxError("The private RabbitMQ node is gone", "call start()") from None
            kind, _, answer = self._answer(timeout).partition(" ")
        if kind != "ok":
            raise SandboxError(f"The private RabbitMQ node failed at a command: {answer[:500]}")
        return answer

    @property
    def unread(self) -> str:
        """What the node printed last and nobody asked for."""
        return self._unread.decode(errors="replace")

    def _answer(self, timeout: float) -> str:
        deadline = time.monotonic() + timeout
        while True:
            *lines, self._unread = self._unread.split(b"\n")
            for number, line in enumerate(lines):
                if line.startswith(b"@"):
                    self._unread = b"\n".join([*lines[number + 1 :], self._unread])
                    return line[1:].decode()
            ready, _, _ = select.select([self._output], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise SandboxError(f"The private RabbitMQ node gave no answer for {timeout:g} s.")
            block = os.read(self._output.fileno(), 65_536)
            if not block:
                raise SandboxError("The private RabbitMQ node is gone", "call start()")
            self._unread += block
