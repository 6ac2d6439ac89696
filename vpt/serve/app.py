"""The HTTP service: predictions of many tasks from one backbone, in shared batches."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import time
from collections.abc import AsyncIterator, Sequence
from importlib import resources
from typing import Any

import numpy as np
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException as StarletteHTTPException

from vpt.bank.bank import Bank
from vpt.config.data import Window
from vpt.data.images import BadImage, decode
from vpt.errors import UserError, nearest
from vpt.serve.batcher import Batcher, ClosedError, FullError
from vpt.serve.folder import TaskFolder
from vpt.serve.keys import Keys, read_keys
from vpt.serve.limits import BodyLimits
from vpt.serve.metrics import ServerMetrics
from vpt.serve.settings import ServeSettings
from vpt.version import own_version

FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["images", "tasks"],
                    "properties": {
                        "images": {"type": "array", "items": {"type": "string", "format": "binary"}},
                        "tasks": {
                            "type": "array",
                            "items": {"type": "string"},
                            "description": "every image to every task",
                        },
                        "top": {"type": "integer", "default": 5, "minimum": 1},
                        "score": {"type": "number", "default": 0.3, "description": "boxes below are left out"},
                    },
                }
            }
        },
    }
}


class Service:
    """What the routes work with: bank, folder, batches, keys, counters."""

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        memory = settings.memory_mb * 1_000_000 if settings.memory_mb else None
        self.bank = Bank(device=settings.device, memory=memory, precision=settings.precision)
        self.folder = TaskFolder(settings.folder, self.bank)
        self.keys: Keys | None = read_keys(settings.keys) if settings.keys is not None else None
        self.metrics = ServerMetrics()
        self.batcher = Batcher(
            self.bank.predict, settings.max_batch, settings.wait_ms / 1000, settings.queue, self.metrics.observe_batch
        )
        self.ready = False

    async def watch(self) -> None:
        """Load the folder, then look at it and at the keys again and again."""
        self.batcher.start()
        while True:
            # What cannot be read now may be readable later; the tasks and keys in memory go on.
            with contextlib.suppress(OSError):
                await run_in_threadpool(self.folder.refresh)
            if self.settings.keys is not None:
                with contextlib.suppress(UserError):
                    self.keys = read_keys(self.settings.keys)
            self.ready = True
            if self.settings.reload_s == 0:
                return
            await asyncio.sleep(self.settings.reload_s)

    def allowed(self, request: Request) -> list[str]:
        """The tasks a request may use.

        Raises:
            HTTPException: 401 without a key or with one that is unknown.
        """
        names = self.bank.names()
        if self.keys is None:
            return names
        header = request.headers.get("authorization", "")
        key = header.removeprefix("Bearer ") if header.startswith("Bearer ") else request.headers.get("x-api-key", "")
        if not key or not self.keys.knows(key):
            raise HTTPException(401, "an API key is needed: send it as 'Authorization: Bearer KEY'")
        return [name for name in names if self.keys.allows(key, name)]

    def check_tasks(self, tasks: Sequence[str], request: Request) -> None:
        """HTTPException for tasks that do not exist (404), are not the key's to use (403) or still load (503)."""
        if not tasks:
            raise HTTPException(422, "name at least one task: the form field 'tasks'")
        if len(tasks) > self.settings.max_tasks:
            raise HTTPException(413, f"{len(tasks)} tasks in one request; {self.settings.max_tasks} are allowed")
        allowed = self.allowed(request)
        for task in tasks:
            if task in allowed:
                continue
            if task in self.bank:
                raise HTTPException(403, f"this key may not use the task '{task[:100]}'")
            if not self.ready:
                raise HTTPException(503, "the tasks are still loading; try again in a moment")
            # Names of tasks that a key may not use are not given away.
            raise HTTPException(404, f"there is no task '{task[:100]}'{nearest(task[:100], allowed)}")


def create_app(settings: ServeSettings) -> FastAPI:
    """The application; its lifespan loads the folder.

    Raises:
        UserError: no such folder, or keys that cannot be read.
    """
    service = Service(settings)

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        # In the background, so that /health answers while a large folder loads.
        watcher = asyncio.create_task(service.watch())
        yield
        service.ready = False
        watcher.cancel()
        await service.batcher.close()

    app = FastAPI(title="vpt", version=own_version(), lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    app.add_middleware(BodyLimits, max_bytes=int(settings.upload_mb * 1_000_000), seconds=settings.upload_s)
    _routes(app, service)
    return app


def _routes(app: FastAPI, service: Service) -> None:
    @app.get("/health", summary="the process lives")
    async def health() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/ready", summary="tasks are loaded and images may come")
    async def ready() -> JSONResponse:
        good = service.ready and len(service.bank) > 0
        body = {
            "ready": good,
            "tasks": len(service.bank),
            "waiting": service.batcher.waiting,
            "bad": service.folder.bad,
        }
        return JSONResponse(body, 200 if good else 503)

    @app.get("/metrics", summary="for Prometheus", response_class=Response)
    async def metrics() -> Response:
        service.metrics.waiting.set(service.batcher.waiting)
        service.metrics.tasks.set(len(service.bank))
        service.metrics.bad.set(len(service.folder.bad))
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/tasks", summary="tasks with their classes")
    async def tasks(request: Request) -> dict[str, Any]:
        rows = []
        for name in service.allowed(request):
            with contextlib.suppress(UserError):  # removed meanwhile
                rows.append(vars(service.bank.info(name)))
        return {"tasks": rows}

    @app.post("/v1/predict", summary="every image to every task", openapi_extra=FORM)
    async def predict(request: Request) -> JSONResponse:
        return await _counted(service, request, _predict)

    @app.post("/v1/attention", summary="where a task's prompts and class row look, on one image", openapi_extra=FORM)
    async def attention(request: Request) -> JSONResponse:
        return await _counted(service, request, _attention)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> str:
        return (resources.files("vpt.serve") / "page.html").read_text(encoding="utf-8")

    @app.exception_handler(StarletteHTTPException)
    async def refused(_request: Request, error: StarletteHTTPException) -> JSONResponse:
        headers = {"Retry-After": "1"} if error.status_code in (429, 503) else None
        return JSONResponse({"detail": error.detail}, error.status_code, headers)


async def _counted(service: Service, request: Request, answer: Any) -> JSONResponse:
    """Run a route, count its status and time, and turn what may go wrong into a clean status."""
    started = time.monotonic()
    status = 500
    try:
        body = await answer(service, request)
        status = 200
        return JSONResponse(body)
    except HTTPException as error:
        status = error.status_code
        raise
    except FullError:
        status = 429
        raise HTTPException(429, "too many images wait; try again in a moment") from None
    except ClosedError:
        status = 503
        raise HTTPException(503, "the server is shutting down") from None
    except TimeoutError:
        status = 504
        raise HTTPException(504, f"no answer within {service.settings.timeout_s:g} seconds") from None
    except UserError as error:
        status = 422
        raise HTTPException(422, str(error)) from None
    finally:
        service.metrics.requests.labels(str(status)).inc()
        service.metrics.latency.observe(time.monotonic() - started)


async def _form(service: Service, request: Request) -> tuple[list[tuple[str, bytes]], list[str], dict[str, str]]:
    """Images by name, tasks, and other fields of a request."""
    settings = service.settings
    kind = request.headers.get("content-type", "")
    if not kind.startswith("multipart/form-data"):
        raise HTTPException(415, "send a form (multipart/form-data) with the fields 'images' and 'tasks'")
    service.allowed(request)  # a missing key is told before anything is read
    try:
        form = await request.form(max_files=settings.max_images + 1, max_fields=settings.max_tasks + 8)
    except StarletteHTTPException as error:
        raise HTTPException(400, f"the form cannot be read: {error.detail}") from None
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(form.close)
        images: list[tuple[str, bytes]] = []
        tasks: list[str] = []
        others: dict[str, str] = {}
        for key, value in form.multi_items():
            if isinstance(value, UploadFile):
                images.append((value.filename or f"image {len(images) + 1}", await value.read()))
            elif key == "tasks":
                # A name may hold a comma itself; it is then a field of its own.
                named = [value.strip()] if value.strip() in service.bank else value.split(",")
                tasks += [task.strip() for task in named if task.strip()]
            else:
                others[key] = value
    if not images:
        raise HTTPException(422, "send at least one image: the form field 'images'")
    if len(images) > settings.max_images:
        raise HTTPException(413, f"more than {settings.max_images} images in one request")
    tasks = list(dict.fromkeys(tasks))
    service.check_tasks(tasks, request)
    return images, tasks, others


def _number(fields: dict[str, str], key: str, default: float, low: float, high: float) -> float:
    try:
        value = float(fields.get(key, default))
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise HTTPException(422, f"{key}={fields[key][:40]} must be a number from {low:g} to {high:g}")
    return value


async def _decoded(
    service: Service, images: Sequence[tuple[str, bytes]], window: Window
) -> list[np.ndarray | BadImage]:
    def one(name: str, content: bytes) -> np.ndarray | BadImage:
        try:
            return decode(content, service.settings.max_pixels, name, window)
        except BadImage as error:
            return error

    return [await run_in_threadpool(one, name, content) for name, content in images]


async def _predict(service: Service, request: Request) -> dict[str, Any]:
    images, tasks, fields = await _form(service, request)
    top = int(_number(fields, "top", 5, 1, 1000))
    least = _number(fields, "score", 0.3, 0, 1)
    if (asked := len(images) * len(tasks)) > service.settings.queue:
        # However long one waits, it would never fit: no 429, which says to try again.
        raise HTTPException(
            413,
            f"{len(images)} images to {len(tasks)} tasks are {asked} answers in one request, more than the "
            f"{service.settings.queue} that may wait; send fewer images or tasks at a time",
        )
    windows = {task: service.bank.window(task) for task in tasks}
    # Once for all tasks, unless they were trained on images of other depths.
    read = {window: await _decoded(service, images, window) for window in dict.fromkeys(windows.values())}
    decoded = next(iter(read.values()))
    if all(isinstance(each, BadImage) for each in decoded):
        raise HTTPException(422, "; ".join(str(each) for each in decoded))
    places = [(number, task) for number, each in enumerate(decoded) if isinstance(each, np.ndarray) for task in tasks]
    pixels = [read[windows[task]][number] for number, task in places]
    wanted = [task for _, task in places]
    waiting = service.batcher.submit(pixels, wanted, top)  # type: ignore[arg-type]
    answers = await asyncio.wait_for(waiting, service.settings.timeout_s)
    found = dict(zip(places, answers, strict=True))
    results = []
    for number, (name, _) in enumerate(images):
        each = decoded[number]
        if isinstance(each, BadImage):
            results.append({"image": name, "error": each.reason})
            continue
        for task in tasks:
            answer = found[number, task]
            service.metrics.images.labels(task).inc()
            results.append({"task": task, **_plain(answer, name, top, least)})
    return {"results": results}


def _plain(answer: Any, name: str, top: int, least: float) -> dict[str, Any]:
    from vpt.results import Classification, Detections

    if isinstance(answer, BadImage):
        return {"image": name, "error": answer.reason}
    if isinstance(answer, Detections):
        return {**answer.above(least).to_dict(), "image": name}
    assert isinstance(answer, Classification)
    plain = answer.to_dict()
    return {**plain, "scores": dict(list(plain["scores"].items())[:top]), "image": name}


async def _attention(service: Service, request: Request) -> dict[str, Any]:
    images, tasks, _ = await _form(service, request)
    pixels = (await _decoded(service, images[:1], service.bank.window(tasks[0])))[0]
    if isinstance(pixels, BadImage):
        raise HTTPException(422, str(pixels))
    looking = run_in_threadpool(service.bank.attention, pixels, tasks[0])
    found = await asyncio.wait_for(looking, service.settings.timeout_s)
    return {**found, "square": _data_url(found["square"])}


def _data_url(pixels: np.ndarray) -> str:
    """A picture (H, W, 3) as PNG inside a URL, so that a page can show it."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
