"""Who decodes next: a bounded number at a time, within a bounded memory, small images before large ones."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time


class Turns:
    """Turns at something that takes memory.

    The order is that of arrival, but every megapixel counts as half a second of waiting less: who sends small images
    passes by who sends large ones, and large ones still have their turn.

    Args:
        number: of turns at a time.
        memory: bytes that all of them may take together; a single larger wish gets all of it.
    """

    def __init__(self, number: int, memory: int) -> None:
        self.free, self.memory, self._all = number, memory, memory
        self._waiting: list[tuple[float, int, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    async def take(self, pixels: int, memory: int) -> int:
        """Wait for a turn; the memory to give back with it."""
        amount = min(memory, self._all)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (time.monotonic() + pixels / 2e6, next(self._numbers), amount, turn))
        self._next()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(amount)  # its turn came just now
            else:
                self._next()  # it may have stood before one that fits
            raise
        return amount

    def give(self, amount: int) -> None:
        """Give back a turn and its memory."""
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
