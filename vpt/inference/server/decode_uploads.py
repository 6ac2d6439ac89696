"""Decoding of untrusted images: file headers are checked first, and memory and threads are bounded."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from vpt.data.decode import ARRAY, BadImage, Decoded, Header, examine, read_header
from vpt.inference.bank.entry import ReadOptions
from vpt.inference.server.decode_queue import Turns
from vpt.inference.server.fair_queue import ClosedError, FullError
from vpt.inference.server.memory import FreedMemory
from vpt.inference.server.multipart import Upload
from vpt.inference.server.multipart_frames import bare

T = TypeVar("T")
Finish = Callable[[np.ndarray, str], T]  # maps an image and its name to a result
Finishes = Mapping[ReadOptions, Finish[T]]
Made = dict[ReadOptions, T | BadImage] | BadImage  # an error for each way to read it, or for all

_BYTES_A_PAGE = 32  # per pixel of a TIFF page that is a channel
QUICK = 1_000_000  # maximum pixels of a request that is decoded immediately, without waiting in the queue
QUICK_BYTES = 4_000_000  # maximum bytes of a request whose headers are read together with those of small ones


class TooManyPixelsError(Exception):
    """Raised with the total number of pixels if the images of a request have too many."""


class Decoder:
    """Decodes images in threads.

    A thread cannot be stopped, so the cost of an image is bounded by its structure and pixels before it is decoded. If
    a request is cancelled, its waiting images are never decoded.

    Args:
        threads: number of images decoded at a time, for small and large images each.
        memory: maximum bytes of large images at a time.
        limit: maximum number of waiting images.
        max_pixels: maximum pixels of one image.
        request_pixels: maximum pixels of all images of a request.
        formats: accepted formats.
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
        self.waiting = 0  # images that have arrived and are not finished

    def close(self) -> None:
        """Stop accepting images."""
        self._closed = True
        for pool in (self._quick, self._large):
            pool.shutdown(wait=False, cancel_futures=True)

    async def run(self, uploads: Sequence[Upload], finishes: Finishes[T]) -> list[Made[T]]:
        """Apply each of `finishes` to each image, in the thread that decoded it; errors for unusable images.

        Raises:
            FullError: too many images are waiting.
            TooManyPixelsError: the images have too many pixels in total; none was decoded.
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
    ) -> tuple[list[Header | BadImage], list[Made[T]] | None]:
        """Read the headers of all images, and decode them if they are small."""
        headers: list[Header | BadImage] = []
        for upload in uploads:
            try:
                headers.append(read_header(upload.content, self._max_pixels, upload.name, self._formats))
            except BadImage as error:
                headers.append(bare(error))
        pixels = sum(_cost(header, finishes)[0] for header in headers if isinstance(header, Header))
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
    ) -> tuple[list[Header | BadImage], list[Made[T]] | None]:
        try:
            return self._begin(uploads, finishes, given_up)
        finally:
            self._freed.give_back()

    async def _decode_in_turn(self, upload: Upload, header: Header, finishes: Finishes[T]) -> Made[T]:
        amount = await self._turns.take(*_cost(header, finishes))
        loop = asyncio.get_running_loop()

        def done(_: Any) -> None:
            # When the thread ends, not the request: the thread of a cancelled request still uses memory.
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._turns.give, amount)

        if self._closed:
            raise ClosedError
        future = self._large.submit(self._decode_large, upload, finishes)
        future.add_done_callback(done)
        return await asyncio.wrap_future(future)

    def _decode_large(self, upload: Upload, finishes: Finishes[T]) -> Made[T]:
        try:
            return self._decode(upload, finishes)
        finally:
            self._freed.give_back()  # before the next image is decoded

    def _decode(self, upload: Upload, finishes: Finishes[T]) -> Made[T]:
        made: dict[ReadOptions, T | BadImage] = {}
        read: dict[int | None, Decoded | BadImage] = {}  # by channels, only the last one
        for options in sorted(finishes, key=lambda options: options.channels or 3):
            found = read.get(options.channels)
            # Once for all windows, unless the image is deeper than 8 bits.
            if found is None or (isinstance(found, Decoded) and found.deep):
                found = self._examined(upload, options)
                read = {options.channels: found}
            made[options] = found if isinstance(found, BadImage) else finishes[options](found.pixels, upload.name)
        failed = [each for each in made.values() if isinstance(each, BadImage)]
        return failed[0] if len(failed) == len(made) else made

    def _examined(self, upload: Upload, options: ReadOptions) -> Decoded | BadImage:
        try:
            window, channels = options
            return examine(upload.content, self._max_pixels, upload.name, self._formats, window, channels=channels)
        except BadImage as error:
            return bare(error)


def _cost(header: Header, finishes: Finishes[T]) -> tuple[int, int]:
    """Pixels and memory of decoding an image: those of as many pages as there may be channels."""
    pixels, most = header.width * header.height, max((options.channels or 1 for options in finishes), default=1)
    if header.format == ARRAY:  # it may have many channels
        return max(pixels, header.memory // 100), header.memory
    if header.format != "TIFF" or most == 1:
        return pixels, header.memory
    return most * pixels, most * pixels * _BYTES_A_PAGE


def _step_back() -> None:
    """Lower the priority of this thread, if the system supports thread priorities."""
    with contextlib.suppress(AttributeError, OSError):
        if os.uname().sysname == "Linux":
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 5)
