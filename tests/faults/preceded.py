"""An app in whose place another one is served: before each of its handlers, something else happens."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from session_worker.operations.app import App

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from session_worker.operations.binding import Binding
    from session_worker.operations.handler import AnyHandler, Context


class Preceded(App[Any]):
    """``app``, each of whose handlers begins when ``before`` has returned."""

    def __init__(self, app: App[Any], before: Callable[[Context[Any]], Awaitable[None]]) -> None:
        super().__init__(lifespan=app.lifespan)
        self._app = app
        self._before = before

    @property
    def bindings(self) -> tuple[Binding, ...]:
        return tuple(replace(each, handler=self._preceded(each.handler)) for each in self._app.bindings)

    def _preceded(self, handler: AnyHandler) -> AnyHandler:
        async def handle(request: Any, context: Context[Any]) -> Any:
            await self._before(context)
            return await handler(request, context)

        return handle
