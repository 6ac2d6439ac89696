"""Decoding images from strangers: what a file says of itself is checked first, and memory and threads are bounded."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from vpt.config.data import Window
from vpt.data.decode import BadImage, Header, examine, read_header
from vpt.inference.server.decode_queue import Turns
from vpt.inference.server.fair_queue import ClosedError, FullError
from vpt.inference.server.memory import FreedMemory
from vpt.inference.server.multipart import Upload
from vpt.inference.server.multipart_frames import bare

T = TypeVar("T")
Finish = Callable[[np.ndarray, str], T]  # a picture and its name to what is kept of it
Finishes = Mapping[Window, Finish[T]]  # by the window by which a picture deeper than 8 bits is read for it

QUICK = 1_000_000  # pixels of all images of a request that are decoded at once, without waiting for a turn
QUICK_BYTES = 4_000_000  # of all files of a request whose headers are read beside those of small ones


class TooManyPixelsError(Exception):
    """The images of a request have more pixels together than allowed; the number."""


class Decoder:
    """Decodes images in threads.

    A thread cannot be stopped, so what one image may cost is bounded before it is decoded, by its structure and pixels;
    what still waits when a request is given up is never begun.

    Args:
        threads: images decoded at a time, of small ones and of large ones each.
        memory: bytes that large images may take at a time.
        limit: images that may wait.
        max_pixels: of one image.
        request_pixels: of all images of a request.
        formats: that are taken.
    """

    def __init__(
        self, threads: int, memory: int, limit: int, max_pixels: int, request_pixels: int, formats: Sequence[str]
    ) -> None:
        self._quick = ThreadPoolExecutor(threads, "vpt-decode")
        self._large = ThreadPoolExecutor(threads, "vpt-decode-large", initializer=_step_back)
        self._turns = Turns(threads, memory)
        self._freed = FreedMemory()
        self._limit = limit
        self._max_pixels = max_pixels
        self._request_pixels = request_pixels
        self._formats = tuple(formats)
        self._closed = False
        self.waiting = 0  # images that have come and are not done

    def close(self) -> None:
        """Begin no more."""
        self._closed = True
        for pool in (self._quick, self._large):
            pool.shutdown(wait=False, cancel_futures=True)

    async def run(self, uploads: Sequence[Upload], finishes: Finishes[T]) -> list[dict[Window, T] | BadImage]:
        """What each of `finishes` makes of each image, called in the thread that decoded it; or why it cannot be used.

        Raises:
            FullError: too many images wait.
            TooManyPixelsError: the images have too many pixels together; none was decoded.
            ClosedError: the server is shutting down.
        """
        if self.waiting + len(uploads) > self._limit:
            raise FullError
        if self._closed:
            raise ClosedError
        self.waiting += len(uploads)
        given_up = threading.Event()
        loop = asyncio.get_running_loop()
        try:
            small = sum(len(upload.content) for upload in uploads) <= QUICK_BYTES
            pool, begin = (self._quick, self._begin) if small else (self._large, self._begin_large)
            headers, quick = await loop.run_in_executor(pool, begin, uploads, finishes, given_up)
            if quick is not None:
                return quick
            return [
                header if isinstance(header, BadImage) else await self._decode_in_turn(upload, header, finishes)
                for upload, header in zip(uploads, headers, strict=True)
            ]
        finally:
            given_up.set()
            self.waiting -= len(uploads)

    def _begin(
        self, uploads: Sequence[Upload], finishes: Finishes[T], given_up: threading.Event
    ) -> tuple[list[Header | BadImage], list[dict[Window, T] | BadImage] | None]:
        """Headers of all images, and what they become if they are small."""
        headers: list[Header | BadImage] = []
        for upload in uploads:
            try:
                headers.append(read_header(upload.content, self._max_pixels, upload.name, self._formats))
            except BadImage as error:
                headers.append(bare(error))
        pixels = sum(header.width * header.height for header in headers if isinstance(header, Header))
        if pixels > self._request_pixels:
            raise TooManyPixelsError(pixels)
        if pixels > QUICK or given_up.is_set():
            return headers, None
        return headers, [
            header if isinstance(header, BadImage) else self._decode(upload, finishes)
            for upload, header in zip(uploads, headers, strict=True)
        ]

    def _begin_large(
        self, uploads: Sequence[Upload], finishes: Finishes[T], given_up: threading.Event
    ) -> tuple[list[Header | BadImage], list[dict[Window, T] | BadImage] | None]:
        try:
            return self._begin(uploads, finishes, given_up)
        finally:
            self._freed.give_back()

    async def _decode_in_turn(
        self, upload: Upload, header: Header, finishes: Finishes[T]
    ) -> dict[Window, T] | BadImage:
        amount = await self._turns.take(header.width * header.height, header.memory)
        loop = asyncio.get_running_loop()

        def done(_: Any) -> None:
            # At the end of the thread's work, not of the request's: a thread that was given up still uses memory.
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._turns.give, amount)

        if self._closed:
            raise ClosedError
        future = self._large.submit(self._decode_large, upload, finishes)
        future.add_done_callback(done)
        return await asyncio.wrap_future(future)

    def _decode_large(self, upload: Upload, finishes: Finishes[T]) -> dict[Window, T] | BadImage:
        try:
            return self._decode(upload, finishes)
        finally:
            self._freed.give_back()  # before the next one has its turn

    def _decode(self, upload: Upload, finishes: Finishes[T]) -> dict[Window, T] | BadImage:
        made: dict[Window, T] = {}
        found = None
        try:
            for window, finish in finishes.items():
                # Once for all windows, unless the image is deeper than 8 bits.
                if found is None or found.deep:
                    found = examine(upload.content, self._max_pixels, upload.name, self._formats, window)
                made[window] = finish(found.pixels, upload.name)
            return made
        except BadImage as error:
            return bare(error)


def _step_back() -> None:
    """Let other threads have the processor first, where the system knows priorities of threads."""
    with contextlib.suppress(AttributeError, OSError):
        if os.uname().sysname == "Linux":
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 5)
