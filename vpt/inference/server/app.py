"""HTTP service: predictions of many tasks on one backbone, in shared batches."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from importlib import resources
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from vpt.inference.server import predict_requests
from vpt.inference.server.connection_limits import STATE, ConnectionLimits
from vpt.inference.server.json_results import Json
from vpt.inference.server.middleware import Guard, page_policy
from vpt.inference.server.settings import ServeSettings
from vpt.inference.server.state import Service
from vpt.utils.version import own_version

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
                            "description": "every image is predicted with every task",
                        },
                        "top": {"type": "integer", "default": 5, "minimum": 1},
                        "score": {"type": "number", "default": 0.3, "description": "minimum score of boxes"},
                    },
                }
            }
        },
    }
}


def create_app(settings: ServeSettings) -> FastAPI:
    """Create the application; its lifespan loads the folder.

    Raises:
        UserError: no such folder, or keys that cannot be read.
    """
    service = Service(settings)
    page = (resources.files("vpt.inference.server") / "page.html").read_text(encoding="utf-8")

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        async with service.running():
            yield {STATE: ConnectionLimits(settings.connections, settings.header_s)}

    app = FastAPI(title="vpt", version=own_version(), lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    app.add_middleware(Guard, hosts=settings.allowed_hosts, policy=page_policy(page))
    _routes(app, service, page)
    return app


def _routes(app: FastAPI, service: Service, html: str) -> None:
    @app.get("/health", summary="the process is running")
    async def health() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/ready", summary="tasks are loaded and images are accepted")
    async def ready(request: Request) -> Response:
        good = service.ready and len(service.folder.tasks) > 0
        bad = service.folder.bad
        body: dict[str, Any] = {"ready": good, "tasks": len(service.folder.tasks), "waiting": service.batcher.waiting}
        visible = service.visible(request, bad)
        if visible or service.keys is None:
            body["bad"] = {name: bad[name] for name in visible}
        if service.keys is not None and service.keys.broken:
            body["keys"] = "the key file cannot be read; the keys that were read before remain valid"
        return Json(body, 200 if good else 503)

    @app.get("/metrics", summary="metrics for Prometheus", response_class=Response)
    async def metrics(request: Request) -> Response:
        counts = service.metrics
        counts.waiting.set(service.batcher.waiting)
        counts.decoding.set(service.decoder.waiting)
        counts.uploads.set(service.uploads.held)
        counts.tasks.set(len(service.folder.tasks))
        counts.bad.set(len(service.folder.bad))
        counts.keys_broken.set(bool(service.keys and service.keys.broken))
        visible = service.visible(request, service.folder.tasks)
        return Response(counts.text(visible), media_type="text/plain; version=0.0.4")

    @app.get("/v1/tasks", summary="tasks with their classes", response_class=Response)
    async def tasks(request: Request) -> Response:
        tasks = service.folder.tasks
        rows = b",".join(tasks[name] for name in service.allowed(request) if name in tasks)
        return Response(b'{"tasks":[' + rows + b"]}", media_type="application/json")

    @app.post("/v1/predict", summary="predict every image with every task", openapi_extra=FORM)
    async def predict(request: Request) -> Response:
        return Json(await predict_requests.ask(service, request, predict_requests.predict))

    @app.post("/v1/attention", summary="attention maps of a task for one image", openapi_extra=FORM)
    async def attention(request: Request) -> Response:
        return Json(await predict_requests.ask(service, request, predict_requests.attention))

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> str:
        return html

    @app.exception_handler(StarletteHTTPException)
    async def refused(_request: Request, error: StarletteHTTPException) -> Response:
        headers = dict(error.headers or {})
        if error.status_code in (429, 503):
            headers["Retry-After"] = "1"
        return Json({"detail": error.detail}, error.status_code, headers)
