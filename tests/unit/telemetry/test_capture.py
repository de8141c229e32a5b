"""What handlers and libraries say by other means: no value fails a line, and every line has one format."""

from __future__ import annotations

import itertools
import json
import logging as standard
import math
import os
import sys
import threading
import traceback
import warnings
from collections import OrderedDict, deque
from contextlib import redirect_stdout, suppress
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from io import StringIO
from logging.config import dictConfig
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import UUID

import pytest
import structlog

from session_worker.telemetry import capture, log, stderr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from session_worker.telemetry.events import Emit
    from tests.unit.telemetry.conftest import Pipe


class Colour(Enum):
    RED = "red"


class Raising:
    """Raises ``error`` whatever it is asked."""

    def __init__(self, error: type[BaseException]) -> None:
        object.__setattr__(self, "error", error)

    def _refuse(self, *_: object) -> NoReturn:
        raise object.__getattribute__(self, "error")("out of order")

    __str__ = __repr__ = __bool__ = __iter__ = __len__ = __getattr__ = __format__ = __eq__ = _refuse
    __hash__ = object.__hash__


class Liar:
    """Says that it is a dict, and has nothing of one."""

    @property
    def __class__(self) -> Any:
        return dict

    @__class__.setter
    def __class__(self, value: object) -> None: ...


class RaisingClass:
    @property
    def __class__(self) -> Any:
        raise KeyboardInterrupt

    @__class__.setter
    def __class__(self, value: object) -> None: ...


class RaisingText(str):
    __slots__ = ()

    def __str__(self) -> str:
        raise ValueError

    __format__ = __repr__ = __len__ = __getitem__ = __str__  # type: ignore[assignment]


class WrongText:
    def __str__(self) -> Any:
        return 7

    __repr__ = __str__


class Growing(dict[Any, Any]):
    def items(self) -> Any:
        return zip(itertools.count(), itertools.count(), strict=False)

    __iter__ = items


def fail(kind: type[Exception]) -> NoReturn:
    raise kind("why")


def caught(kind: type[Exception]) -> Exception:
    try:
        fail(kind)
    except kind as error:
        return error


class BrokenError(Exception):
    def __str__(self) -> str:
        raise RuntimeError

    @property
    def __notes__(self) -> list[str]:  # type: ignore[override]
        raise RecursionError


def circular() -> list[Any]:
    value: list[Any] = [1]
    value.append({"itself": value, "again": [value] * 100})
    return value


def deep() -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(10_000):
        value = {"deeper": value}
    return value


def endless() -> Iterator[int]:
    yield from itertools.count()


VALUES: dict[str, Any] = {
    "circular": circular(),
    "10,000 deep": deep(),
    "str raises an error": Raising(RuntimeError),
    "str raises RecursionError": Raising(RecursionError),
    "str raises KeyboardInterrupt": Raising(KeyboardInterrupt),
    "str raises SystemExit": Raising(SystemExit),
    "str returns a number": WrongText(),
    "lies about its class": Liar(),
    "its class raises": RaisingClass(),
    "a text that raises": RaisingText("raises"),
    "endless": endless(),
    "a dict without end": Growing(a=1),
    "a million": list(range(1_000_000)),
    "a million in a dict": dict.fromkeys(range(1_000_000)),
    "a long text": "x" * 10_000_000,
    "half a surrogate pair": "\ud800",
    "bytes": b"\xff\x00",
    "many bytes": b"x" * 10_000_000,
    "keys of many kinds": {1: "a", "1": "b", None: 3, (1, 2): 4, b"x": 5, Raising(ValueError): 6},
    "nan": [math.nan, math.inf, -math.inf],
    "a long number": 10**10_000,
    "decimal": Decimal("NaN"),
    "time": datetime(2026, 1, 2, tzinfo=UTC),
    "uuid": UUID(int=7),
    "enum": Colour.RED,
    "a path": Path("/x"),
    "collections": [deque([1]), OrderedDict(a=1), {1}, frozenset([2])],
    "an error": BrokenError(),
    "a type": type,
    "a function": endless,
    "a mock": SimpleNamespace(a=Raising(ValueError)),
    "nothing": None,
}


@pytest.fixture
def gathered(logging: Callable[[str], Emit]) -> Iterator[None]:
    logging("info")
    with capture.output():
        yield


def _only_line(pipe: Pipe) -> dict[str, Any]:
    data = pipe.read()
    assert len(data) <= stderr.PIPE_BUF
    (line,) = data.splitlines()
    found = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert isinstance(found, dict)
    return found


@pytest.mark.usefixtures("gathered")
@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("terminal", [False, True], ids=["machine", "terminal"])
def test_no_value_fails_a_line(
    pipe: Pipe, name: str, terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a field, nested, as the event, as an argument, bound, and as ``exc_info``."""
    if terminal:
        monkeypatch.setattr(pipe, "isatty", lambda: True)
        log.configure("info")
    said, value = structlog.get_logger(), VALUES[name]
    for tell in (
        lambda: said.info("said", value=value),
        lambda: said.info("said", value=[{"of": (value,)}]),
        lambda: said.warning(value),
        lambda: said.info("said %s", value),
        lambda: said.info("said %d", value, value),
        lambda: said.bind(value=value).error("said"),
        lambda: said.error("said", exc_info=value),
        lambda: said.error("said", exc_info=(1, value, 3)),
    ):
        tell()  # type: ignore[no-untyped-call]
        if terminal:
            assert pipe.read().endswith(b"\n")
        else:
            assert _only_line(pipe)["event"] is not None or value is None


@pytest.mark.usefixtures("gathered")
def test_what_can_be_shown_of_a_value_is_shown(pipe: Pipe) -> None:
    structlog.get_logger().info(
        "said",
        **{
            name.replace(" ", "_"): value
            for name, value in VALUES.items()
            if name in ("bytes", "nan", "time", "uuid", "enum", "a path", "collections", "decimal")
        },
    )
    line = _only_line(pipe)
    assert line["bytes"] == "\\xff\x00"
    assert line["nan"] == ["nan", "inf", "-inf"]
    assert line["time"] == "2026-01-02T00:00:00+00:00"
    assert line["uuid"] == str(UUID(int=7))
    assert line["enum"] == "red"
    assert line["a_path"] == "/x"
    assert line["collections"] == [[1], {"a": 1}, [1], [2]]
    assert line["decimal"] == "NaN"


@pytest.mark.usefixtures("gathered")
def test_of_a_value_that_cannot_be_shown_the_neighbours_are(pipe: Pipe) -> None:
    structlog.get_logger().info("said", before=1, value={"a": Raising(KeyboardInterrupt), "b": 2}, after=3)
    line = _only_line(pipe)
    assert (line["before"], line["value"]["b"], line["after"]) == (1, 2, 3)
    assert "Raising" in line["value"]["a"]
    assert "cannot be shown" in line["value"]["a"]


@pytest.mark.usefixtures("gathered")
def test_a_generator_that_is_logged_is_still_the_handlers(pipe: Pipe) -> None:
    numbers = endless()
    structlog.get_logger().info("said", numbers=numbers)
    assert next(numbers) == 0


@pytest.mark.usefixtures("gathered")
def test_a_field_may_have_any_name(pipe: Pipe) -> None:
    """Also those of structlog's own parameters, and of our fields."""
    names = ["self", "method_name", "event", "level", "level_", "said", "", "\ud800", "x" * 10_000]
    structlog.get_logger().error(
        "said", exc_info=ValueError("why"), exception="mine", **dict.fromkeys(names, 1)
    )
    line = _only_line(pipe)
    assert (line["event"], line["level"], line["worker_id"]) == ("said", "error", "host-1")
    assert line["exception"] == "ValueError: why"
    assert line["exception_"] == "mine"
    assert line["event_"] == line["level_"] == line["level__"] == line["self"] == line["method_name"] == 1


@pytest.mark.usefixtures("gathered")
def test_fields_without_number_are_left_out_and_counted(pipe: Pipe) -> None:
    structlog.get_logger().info("said", **{f"number{number}": "x" * 50 for number in range(500)})
    line = _only_line(pipe)
    assert line["number0"] == "x" * 50
    assert line["fields_left_out"] > 300


@pytest.mark.usefixtures("gathered")
def test_a_secret_does_not_come_to_light_where_a_value_is_cut(pipe: Pipe) -> None:
    url = "amqp://ada:" + "s3cret" * 3000 + "@host/"
    for value in (url, "x" * 20_000 + url + "y" * 40_000, [url], {"a": {"b": url}}):
        structlog.get_logger().info("said", value=value)
        standard.getLogger("library").warning("refused: %s", value)
        assert b"s3cret" not in pipe.read()


@pytest.mark.usefixtures("gathered")
async def test_every_method_of_structlog_is_there(pipe: Pipe) -> None:
    said = structlog.get_logger("name", bound=1).bind(more=2).new(most=3)
    for tell in (
        said.info,
        said.msg,
        said.warn,
        said.warning,
        said.err,
        said.error,
        said.critical,
        said.fatal,
    ):
        tell("said %s", 1, field=2)
    try:
        int("x")
    except ValueError:
        said.exception("said 1", field=2)
        await said.aexception("said %s", 1, field=2)
    for tell in (said.ainfo, said.awarning, said.aerror, said.acritical):
        await tell("said %s", 1, field=2)
    said.log(25, "said %s", 1, field=2)
    await said.alog(25, "said %s", 1, field=2)
    said.debug("not at this level")
    log.flush()
    lines = pipe.lines()
    assert len(lines) == 16
    assert all((line["event"], line["field"], line["most"]) == ("said 1", 2, 3) for line in lines)
    assert sum("ValueError: invalid" in line.get("exception", "") for line in lines) == 2


# ------------------------------------------------------------------------------- the standard library


@pytest.mark.usefixtures("gathered")
def test_the_standard_librarys_records_are_lines_of_the_same_kind(pipe: Pipe) -> None:
    logger = standard.getLogger("shop.orders")
    logger.info("order %s of %d", "a7", 3, extra={"order": "a7", "level": "gold"})
    line = _only_line(pipe)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "info",
        "worker_id": "host-1",
        "event": "order a7 of 3",
        "order": "a7",
        "level_": "gold",
        "logger": "shop.orders",
    }
    logger.debug("not at this level")
    assert pipe.read() == b""
    alone = standard.Logger("shop")  # pytest's own handlers cannot show it
    alone.addHandler(capture._Records())
    alone.error("broken", exc_info=caught(BrokenError))
    line = _only_line(pipe)
    assert line["level"] == "error"
    assert "BrokenError" in line["exception"]


@pytest.mark.usefixtures("gathered")
@pytest.mark.parametrize("name", VALUES)
def test_no_value_fails_a_record(pipe: Pipe, name: str) -> None:
    # Not by way of the root logger: pytest's own handlers there do fail.
    logger, value = standard.Logger("shop"), VALUES[name]
    logger.addHandler(capture._Records())
    for tell in (
        lambda: logger.error(value),
        lambda: logger.error("%s and %s", value, 1),
        lambda: logger.error("%d", 1, value),
        lambda: logger.error("said", extra={"value": value}),
    ):
        tell()  # type: ignore[no-untyped-call]
        assert _only_line(pipe)["logger"] == "shop"


def test_the_level_that_is_set_holds_for_the_standard_library_too(
    pipe: Pipe, logging: Callable[[str], Emit]
) -> None:
    root, before = standard.getLogger(), standard.getLogger().level
    for level, expected in (("debug", 2), ("info", 1), ("error", 0)):
        logging(level)
        with capture.output():
            standard.getLogger("shop").debug("one")
            standard.getLogger("shop").info("two")
            standard.getLogger("eager").setLevel(standard.DEBUG)
            standard.getLogger("eager").debug("one")
        standard.getLogger("eager").setLevel(standard.NOTSET)
        assert len(pipe.lines()) == expected + (level == "debug")
    assert root.level == before


@pytest.mark.parametrize("name", ["aiormq", "aiormq.connection", "aio_pika.queue"])
def test_bodies_that_a_library_prints_never_reach_the_log(
    pipe: Pipe, logging: Callable[[str], Emit], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a handler has set these loggers to all they have."""
    logging("debug")
    monkeypatch.setattr(standard.getLogger(name), "level", standard.DEBUG)
    with capture.output():
        standard.getLogger(name).error("body: %r", b"secret")
    assert pipe.read() == b""


@pytest.mark.usefixtures("gathered")
def test_a_warning_is_a_line(pipe: Pipe) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings._showwarnmsg_impl = None  # type: ignore[attr-defined]
        standard.captureWarnings(False)
        standard.captureWarnings(True)
        warnings.warn("old fashioned", DeprecationWarning, stacklevel=1)
    line = _only_line(pipe)
    assert line["logger"] == "py.warnings"
    assert "old fashioned" in line["event"]


# --------------------------------------------------------------------------------------------- print


def test_each_printed_line_is_a_line(pipe: Pipe, logging: Callable[[str], Emit]) -> None:
    logging("info")
    with capture.output():
        print("one\ntwo", 3)  # noqa: T201
        print("four", file=sys.stderr)  # noqa: T201
        print()  # noqa: T201
        sys.stdout.buffer.write(b"\xff\n")
        print("half \ud800", flush=True)  # noqa: T201
        lines = pipe.lines()
        assert [(line["event"], line["level"], line["logger"]) for line in lines] == [
            ("one", "info", "stdout"),
            ("two 3", "info", "stdout"),
            ("four", "warning", "stderr"),
            ("\\xff", "info", "stdout"),
            ("half \\ud800", "info", "stdout"),
        ]
        assert all(line["worker_id"] == "host-1" for line in lines)


def test_what_was_begun_is_a_line_at_the_end(pipe: Pipe, logging: Callable[[str], Emit]) -> None:
    logging("error")  # what is printed has no level that could be off
    with capture.output():
        print("no end", end="")  # noqa: T201
        sys.stderr.write("nor here")
    assert sorted(line["event"] for line in pipe.lines()) == ["no end", "nor here"]


def test_a_line_without_end_is_bounded(pipe: Pipe, logging: Callable[[str], Emit]) -> None:
    logging("info")
    with capture.output():
        for _ in range(300):
            print("x" * 100, end="")  # noqa: T201
        lines = pipe.read().splitlines()
        assert 3 <= len(lines) <= 4
        assert all(len(line) < stderr.PIPE_BUF for line in lines)


def test_threads_that_print_at_once_do_not_mix_their_lines(
    pipe: Pipe, logging: Callable[[str], Emit]
) -> None:
    logging("info")
    with capture.output():
        together = threading.Barrier(4)

        def work(name: str) -> None:
            together.wait(10)
            for _ in range(20):
                print(name, name, name)  # noqa: T201

        threads = [threading.Thread(target=work, args=[name * 50]) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        said = [line["event"] for line in pipe.lines()]
        assert len(said) == 80
        assert set(said) == {" ".join([name * 50] * 3) for name in "abcd"}


def test_a_traceback_that_python_prints_is_in_the_log(pipe: Pipe, logging: Callable[[str], Emit]) -> None:
    logging("info")
    with capture.output():
        traceback.print_exception(caught(ValueError))
        said = [line["event"] for line in pipe.lines()]
        assert said[0] == "Traceback (most recent call last):"
        assert said[-1] == "ValueError: why"


def test_a_handler_may_send_its_output_elsewhere(pipe: Pipe, logging: Callable[[str], Emit]) -> None:
    logging("info")
    with capture.output():
        with redirect_stdout(StringIO()) as elsewhere:
            print("elsewhere")  # noqa: T201
        assert (elsewhere.getvalue(), pipe.read()) == ("elsewhere\n", b"")


# ------------------------------------------------------------------------- a handler's own configuration

DICT_CONFIG = {
    "version": 1,
    "disable_existing_loggers": True,
    "handlers": {"console": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout"}},
    "root": {"handlers": ["console"], "level": "DEBUG"},
}


@pytest.mark.parametrize(
    "configure",
    [
        lambda: standard.basicConfig(level=standard.DEBUG, format="%(message)s"),
        lambda: standard.basicConfig(level=standard.DEBUG, format="%(message)s", force=True),
        lambda: dictConfig(DICT_CONFIG),
        lambda: structlog.configure(
            processors=[structlog.processors.JSONRenderer()],
            wrapper_class=structlog.BoundLogger,
            logger_factory=structlog.PrintLoggerFactory(),
            cache_logger_on_first_use=False,
        ),
        lambda: structlog.configure(processors=[structlog.processors.JSONRenderer()]),
        lambda: structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(20)),
        lambda: structlog.configure(logger_factory=structlog.stdlib.LoggerFactory()),
        lambda: structlog.configure(
            processors=[structlog.processors.JSONRenderer()],
            wrapper_class=structlog.make_filtering_bound_logger(20),
        ),
        structlog.reset_defaults,
    ],
    ids=["basic", "basic by force", "dict", "structlog", "processors", "wrapper", "factory", "text", "reset"],
)
def test_how_a_handler_sets_up_its_log_changes_nothing_of_ours(
    pipe: Pipe, logging: Callable[[str], Emit], configure: Callable[[], None]
) -> None:
    """Its own lines may look otherwise, but come as lines of ours."""
    root = standard.getLogger()
    before = root.handlers[:], root.level
    logging("info")
    try:
        with capture.output():
            configure()
            log.say("info", "ours")
            standard.getLogger(os.urandom(8).hex()).warning("theirs")  # no dictConfig knows it
            structlog.get_logger().warning("theirs too")
            print("printed")  # noqa: T201
    finally:
        root.handlers[:], _ = before
        root.setLevel(before[1])
        for logger in standard.Logger.manager.loggerDict.values():
            if isinstance(logger, standard.Logger):
                logger.disabled = False
    lines = pipe.lines()
    assert [line["event"] for line in lines].count("ours") == 1
    assert sum("theirs" in str(line["event"]) for line in lines) == 2
    assert lines[-1]["event"] == "printed"
    assert all(line["worker_id"] == "host-1" for line in lines)


def test_a_process_that_a_handler_forks_writes_its_own_lines(
    pipe: Pipe, logging: Callable[[str], Emit]
) -> None:
    """And not once more those that its parent has not written yet."""
    logging("info")
    with capture.output():
        log._log.out._lines.append(b'{"event":"waits"}\n')  # type: ignore[union-attr]
        child = os.fork()
        if child == 0:
            with suppress(BaseException):
                print("child")  # noqa: T201
            os._exit(0)
        os.waitpid(child, 0)
        log.flush()
    assert [line["event"] for line in pipe.lines()] == ["child", "waits"]


def test_what_is_said_in_the_middle_of_a_write_is_written_after_it(
    pipe: Pipe, logging: Callable[[str], Emit], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finalizer may run anywhere, and print."""
    logging("info")
    write, pending = os.write, ["finalizer"]

    def interrupted(fd: int, data: bytes) -> int:
        if pending:
            log.say("warning", pending.pop())
        return write(fd, data)

    monkeypatch.setattr(os, "write", interrupted)
    log.say("info", "ours")
    assert [line["event"] for line in pipe.lines()] == ["ours", "finalizer"]
