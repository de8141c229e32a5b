"""The worker's settings: ``Settings`` has them all, ``load`` reads them."""

from session_worker.settings.model import ALL, CONSUMER_TIMEOUT, Settings, load, load_only, unknown_variables
from session_worker.settings.sources import InvalidSettingsError

__all__ = [
    "ALL",
    "CONSUMER_TIMEOUT",
    "InvalidSettingsError",
    "Settings",
    "load",
    "load_only",
    "unknown_variables",
]
