"""What can be checked without broker and ledger: the settings, the handler, the ops port."""

from __future__ import annotations

import asyncio
import json
import sys
from http.client import HTTPException
from typing import TYPE_CHECKING

from session_client.net.threads import in_own_thread
from session_worker.operators.doctor.result import CHECK_SECONDS, failed, from_error, ok, warning
from session_worker.runtime import ops, probe
from session_worker.settings import CONSUMER_TIMEOUT, unknown_variables

if TYPE_CHECKING:
    from session_worker.operators.doctor.result import Result
    from session_worker.settings import InvalidSettingsError, Settings

HASTY_SECONDS = 5.0
SLUGGISH_SECONDS = 300.0
# Not started in the current folder's path: its files must not shadow Python's own modules.
_LOAD = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from session_worker.operators.doctor.load_handler import main
main(sys.argv[2])
"""


async def examine(settings: Settings) -> list[Result]:
    loaded, port = await asyncio.gather(
        handler(settings.handler), ops_port(settings.ops_host, settings.ops_port)
    )
    return [
        known_settings(settings.prefix),
        loaded,
        consumer_timeout(settings),
        holder_timeout(settings.holder_timeout),
        port,
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


async def handler(path: str | None) -> Result:
    """Load the handler in another process: importing it may end the process, or hang."""
    if path is None:
        return ok("handler", "the built-in one")
    search = json.dumps(sys.path)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-c", _LOAD, search, path),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    fix = "correct SESSION_WORKER_HANDLER, or the code that it names"
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            said, _ = await process.communicate()
    except TimeoutError:
        return failed("handler", f"handler {path}: to import it takes more than {CHECK_SECONDS:g} s", fix)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        return failed("handler", f"handler {path}: to import it ends the process ({process.returncode})", fix)
    return failed("handler", said.decode(), fix) if said else ok("handler", f"{path} loads")


def consumer_timeout(settings: Settings) -> Result:
    longest = settings.handler_timeout + settings.shutdown_grace  # the settings are invalid if it is too long
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
