"""Several questions to a store at once, so that the way there and back is not waited for one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, Final, TypeVar

AT_ONCE: Final = 4

T = TypeVar("T")


async def gathered(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results, in order; at most `AT_ONCE` run at a time. Raises what the first that fails raises."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def run(work: Coroutine[Any, Any, T]) -> T:
        async with slots:
            return await work

    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(run(work)) for work in works]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        # None may go on with a store that is closed next.
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
