"""Queue of image decoding: bounded in number and memory, small images before large ones."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time


class Turns:
    """Schedules work that needs memory.

    Requests are ordered by arrival, but every megapixel counts as half a second of waiting less: small images overtake
    large ones, without starving them.

    Args:
        number: maximum number at a time.
        memory: maximum bytes of all together; a single larger request gets all of it.
    """

    def __init__(self, number: int, memory: int) -> None:
        self.free, self.memory, self._all = number, memory, memory
        self._waiting: list[tuple[float, int, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    async def take(self, pixels: int, memory: int) -> int:
        """Wait for a slot; returns the amount of memory to release."""
        amount = min(memory, self._all)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (time.monotonic() + pixels / 2e6, next(self._numbers), amount, turn))
        self._next()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(amount)  # the slot was assigned just now
            else:
                self._next()  # it may have blocked a request that fits
            raise
        return amount

    def give(self, amount: int) -> None:
        """Release a slot and its memory."""
        self.free += 1
        self.memory += amount
        self._next()

    def _next(self) -> None:
        while self._waiting and self.free:
            *_, amount, turn = self._waiting[0]
            if not turn.done():
                if amount > self.memory:
                    return
                self.free -= 1
                self.memory -= amount
                turn.set_result(None)
            heapq.heappop(self._waiting)
