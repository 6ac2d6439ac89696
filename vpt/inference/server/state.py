"""State of a server, and access to its tasks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable, Sequence

from fastapi import HTTPException, Request
from starlette.concurrency import run_in_threadpool

from vpt.inference.bank.bank import Bank
from vpt.inference.server.api_keys import KeyFile
from vpt.inference.server.decode_uploads import Decoder
from vpt.inference.server.dynamic_batching import Batcher
from vpt.inference.server.multipart import Uploads
from vpt.inference.server.prometheus import ServerMetrics
from vpt.inference.server.settings import ServeSettings
from vpt.inference.server.watch_folder import TaskFolder
from vpt.utils.errors import nearest

SUGGEST = 200  # maximum number of names for suggesting a similar one

logger = logging.getLogger("vpt.inference.server")


class Service:
    """Bank, folder, decoder, batches, keys and counters of one server.

    Args:
        settings: settings of the server.

    Raises:
        UserError: the folder does not exist, or the keys cannot be read.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        memory = settings.memory_mb * 1_000_000 if settings.memory_mb else None
        self.bank = Bank(settings.backbone, settings.device, memory, settings.precision, settings.load_s)
        self.folder = TaskFolder(settings.folder, self.bank)
        self.keys = KeyFile(settings.keys) if settings.keys is not None else None
        self.metrics = ServerMetrics()
        self.uploads = Uploads(int(settings.uploads_mb * 1_000_000))
        self.decoder = Decoder(
            settings.decode_threads,
            settings.decode_mb * 1_000_000,
            settings.queue,
            settings.max_pixels,
            settings.request_pixels,
            settings.formats,
        )
        self.batcher = Batcher(
            lambda works, seconds: type(works[0]).compute(self.bank, works, seconds),
            settings.max_batch,
            settings.wait_ms / 1000,
            settings.queue,
            settings.task_s,
            self.metrics.observe_batch,
        )
        self.ready = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve within the block."""
        self.batcher.start()
        # In the background, so that /health responds while a large folder loads.
        watcher = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            self.ready = False
            watcher.cancel()
            self.decoder.close()
            await self.batcher.close()

    async def _watch(self) -> None:
        """Load the folder, then poll it and the key file for changes."""
        lost = False
        while True:
            try:
                self.batcher.forgive(await run_in_threadpool(self.folder.refresh))
                lost = False
            except OSError as error:
                # The folder may be readable again later; the tasks in memory remain available.
                if not lost:
                    logger.error(
                        "the folder of tasks cannot be read (%s); tasks in memory remain available", error.strerror
                    )
                lost = True
            if self.keys is not None:
                await run_in_threadpool(self.keys.refresh)
            self.ready = True
            if self.settings.reload_s == 0:
                return
            await asyncio.sleep(self.settings.reload_s)

    def _key(self, request: Request) -> str | None:
        """The key of a request, if it is known."""
        header = request.headers.get("authorization", "")
        key = header.removeprefix("Bearer ") if header.startswith("Bearer ") else request.headers.get("x-api-key", "")
        return key if key and self.keys is not None and self.keys.keys.knows(key) else None

    def visible(self, request: Request, names: Iterable[str]) -> list[str]:
        """Tasks among `names` that are visible to a request: with API keys, those that its key may use."""
        if self.keys is None:
            return list(names)
        key = self._key(request)
        return [] if key is None else self.keys.keys.allowed(key, names)

    def allowed(self, request: Request) -> list[str]:
        """Tasks that a request may use.

        Raises:
            HTTPException: 401 without a key or with an unknown one.
        """
        if self.keys is not None and self._key(request) is None:
            raise HTTPException(401, "an API key is required: send it as 'Authorization: Bearer KEY'")
        return self.visible(request, self.folder.tasks)

    def check_tasks(self, tasks: Sequence[str], request: Request) -> None:
        """Raise HTTPException for tasks that are still loading (503), or do not exist or are not allowed (404)."""
        if not tasks:
            raise HTTPException(422, "specify at least one task: the form field 'tasks'")
        if len(tasks) > self.settings.max_tasks:
            raise HTTPException(413, f"{len(tasks)} tasks in one request; {self.settings.max_tasks} are allowed")
        allowed = self.allowed(request)
        for task in tasks:
            if task in allowed:
                continue
            if not self.ready:
                raise HTTPException(503, "the tasks are still loading; try again in a moment")
            # The same response for both, so that the existence of a task is not disclosed to other keys.
            guess = nearest(task[:100], allowed) if len(allowed) <= SUGGEST else ""
            raise HTTPException(404, f"there is no task '{task[:100]}'{guess}")
