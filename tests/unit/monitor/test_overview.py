"""How the overview looks at its sources."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import NoReturn

from alexq_monitor.history import History
from alexq_monitor.overview import Overview, View
from alexq_schema.errors import BrokerUnavailableError, DatabaseUnavailableError
from alexq_schema.settings import Settings


def test_sources_that_hang_are_waited_for_at_the_same_time() -> None:
    async def view() -> View:
        both = asyncio.Barrier(2)

        async def read(_work: object) -> NoReturn:
            await both.wait()
            raise DatabaseUnavailableError("the database hangs")

        async def broker(_work: object) -> NoReturn:
            await both.wait()
            raise BrokerUnavailableError("Redis hangs")

        sources = SimpleNamespace(settings=Settings.load(), read=read, broker=broker)
        return await asyncio.wait_for(Overview(sources, History()).view(), 30)  # type: ignore[arg-type]

    shown = asyncio.run(view())
    assert (shown.database_error, shown.broker_error) == ("the database hangs", "Redis hangs")
