"""What can be checked without broker and ledger: the settings, the app, the ops port."""

from __future__ import annotations

import asyncio
import json
import sys
from http.client import HTTPException
from typing import TYPE_CHECKING, Any

from session_client.net.threads import in_own_thread
from session_worker.operations.errors import AppError
from session_worker.operators.doctor.result import CHECK_SECONDS, failed, from_error, ok, warning
from session_worker.operators.operations import Known, known
from session_worker.runtime import ops, probe
from session_worker.settings import CONSUMER_TIMEOUT, unknown_variables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from session_worker.operators.doctor.result import Result
    from session_worker.settings import InvalidSettingsError, Settings

LOAD_SECONDS = 20.0
"""An app may bring along large libraries, and the machine may be busy."""
HASTY_SECONDS = 5.0
SLUGGISH_SECONDS = 300.0
# Not started in the current folder's path: its files must not shadow Python's own modules.
_LOAD = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from session_worker.operators.doctor.load_app import main
main()
"""


async def examine(settings: Settings, operations: Sequence[Known]) -> list[Result]:
    return [
        consumer_timeout(settings, operations),
        holder_timeout(settings.holder_timeout),
        await ops_port(settings.ops_host, settings.ops_port),
    ]


def invalid_settings(error: InvalidSettingsError) -> list[Result]:
    """A failure for each setting that is invalid, without which nothing else can be checked."""
    found = [
        (f"{each.what} ({each.origin})" if each.origin else each.what, each.fix) for each in error.settings
    ]
    return [
        failed("settings", what, fix or "correct it; docs/settings.md has them all") for what, fix in found
    ]


def known_settings(prefix: str) -> Result:
    """Warn of misspelt variables. (Invalid settings were reported before.)"""
    unknown = unknown_variables()
    if unknown:
        fix = "; ".join(
            f"rename {name}, perhaps to {nearest}, or remove it" for name, nearest in unknown.items()
        )
        return warning("settings", f"valid, but nothing reads {', '.join(unknown)}", fix)
    return ok("settings", f"valid; the names at the broker begin with {prefix}")


async def app(settings: Settings) -> tuple[Result, Sequence[Known]]:
    """Load the app, or the hook, in another process: importing it may end the process, or hang. Return what
    it serves; of one that does not load, the built-in operations."""
    if settings.app is None and settings.handler is None:
        try:
            return ok("app", "none: the built-in operations alone"), known(settings)
        except AppError as error:
            return from_error("app", error, "correct it"), _built_in(settings)
    name = "app" if settings.handler is None else "handler"
    path = settings.app or settings.handler
    said = await _loaded(settings)
    if "known" in said:
        operations = [Known(**each | {"retry_delays": tuple(each["retry_delays"])}) for each in said["known"]]
        return ok(name, f"{path} loads, and serves {', '.join(each.name for each in operations)}"), operations
    fix = said.get("fix") or f"correct SESSION_WORKER_{name.upper()}, or the code that it names"
    what = said["what"] if "fix" in said else f"{name} {path}: {said['what']}"
    return failed(name, what, fix), _built_in(settings)


def _built_in(settings: Settings) -> tuple[Known, ...]:
    return known(settings.model_copy(update={"app": None, "operations": ()}))


async def _loaded(settings: Settings) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-c", _LOAD, json.dumps(sys.path)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(LOAD_SECONDS):
            said, _ = await process.communicate(json.dumps(settings.hand_over()).encode())
    except TimeoutError:
        return {"what": f"to import it takes more than {LOAD_SECONDS:g} s"}
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode or not said:
        return {"what": f"to import it ends the process ({process.returncode})"}
    answer: dict[str, Any] = json.loads(said)
    return answer


def consumer_timeout(settings: Settings, operations: Sequence[Known]) -> Result:
    # The app cannot be served if it is too long.
    longest = max(each.timeout for each in operations) + settings.shutdown_grace
    return ok(
        "consumer timeout",
        f"a request is held for {longest:g} s at the most; assumed is RabbitMQ's default consumer_timeout of "
        f"{CONSUMER_TIMEOUT:g} s, since AMQP does not tell this broker's",
    )


def holder_timeout(seconds: float) -> Result:
    fix = "set SESSION_WORKER_HOLDER_TIMEOUT to 15, or near it"
    if seconds < HASTY_SECONDS:
        found = "a worker held up for so long is taken for dead, and its requests are handled a second time"
        return warning("holder timeout", f"{seconds:g} s: {found}", fix)
    if seconds > SLUGGISH_SECONDS:
        found = "when a worker dies, its requests wait for so long"
        return warning("holder timeout", f"{seconds:g} s: {found}", fix)
    return ok("holder timeout", f"{seconds:g} s without a sign of life, and a worker is taken for dead")


async def ops_port(host: str, port: int) -> Result:
    if port == 0:
        return ok("ops port", "none is opened")
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            _, said = await in_own_thread(probe.ask, host, port, "/readyz", CHECK_SECONDS)
        checks = json.loads(said)["checks"].items()
        reasons = [f"{name}: {reason}" for name, reason in checks if reason != "ok"]
    except (HTTPException, ValueError, LookupError, TypeError, AttributeError):  # no worker
        return failed(
            "ops port",
            f"port {port} of {host} is taken by another program",
            "choose another one (SESSION_WORKER_OPS_PORT), or 0 for none",
        )
    except OSError:  # nobody answers there
        try:
            for listener in ops.listen(host, port):
                listener.close()
        except ops.OpsPortError as error:
            return from_error("ops port", error, "choose another one")
        return ok("ops port", f"port {port} of {host} is free: no worker of this machine has it")
    if reasons:
        found = f"the worker at port {port} of {host} is not ready: {'; '.join(reasons)}"
        return warning("ops port", found, "fix that; the worker continues by itself")
    return ok("ops port", f"the worker at port {port} of {host} is ready")
