"""Requests that compute: from a form to the results of its tasks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from fastapi import HTTPException, Request
from starlette.requests import ClientDisconnect

from vpt.data.decode import BadImage
from vpt.inference.bank.answers import BrokenTaskError, Prepared, ReplacedTaskError
from vpt.inference.bank.entry import ReadOptions
from vpt.inference.bank.task import TaskError
from vpt.inference.server.batched_work import Attention, Prediction
from vpt.inference.server.decode_uploads import Finish, TooManyPixelsError
from vpt.inference.server.dynamic_batching import SlowTaskError, Work
from vpt.inference.server.fair_queue import ClosedError, FullError
from vpt.inference.server.json_results import row_of
from vpt.inference.server.multipart import Form, FormError, FormReader, Holding, read_form
from vpt.inference.server.multipart_frames import bare
from vpt.inference.server.state import Service, logger
from vpt.utils.errors import UserError
from vpt.utils.plotting import data_uri

T = TypeVar("T")

MAX_SCORES = 50_000  # maximum of one response: images x tasks x classes
GONE = 499  # the client has disconnected; nobody reads this


@dataclass(frozen=True)
class Asked:
    """A request whose form was received.

    Args:
        form: its images and fields.
        tasks: tasks that it names and may use, without duplicates.
        holding: memory of its images until they are decoded.
        end: time of its timeout.
    """

    form: Form
    tasks: tuple[str, ...]
    holding: Holding
    end: float


Answer = Callable[[Service, Asked], Coroutine[Any, Any, dict[str, Any]]]


async def ask(service: Service, request: Request, answer: Answer) -> dict[str, Any]:
    """Run a route, record its status and duration, and convert errors to a status.

    Raises:
        HTTPException: on any error.
    """
    started = time.monotonic()
    status = 500
    clock = asyncio.timeout(service.settings.upload_s)
    holding = service.uploads.begin(clock)
    form = refused = None
    try:
        form = await _form(service, request, clock, holding)
        tasks = _tasks(service, form)
        service.check_tasks(tasks, request)
        seconds = service.settings.timeout_s
        async with asyncio.timeout(seconds):
            asked = Asked(form, tasks, holding, time.monotonic() + seconds)
            found = await _unless_gone(request, answer(service, asked))
        status = 200
        return found
    except Exception as error:
        refused = _refused(service, error)
        status = refused.status_code
        raise refused from None
    finally:
        # An error and its frames form a reference cycle: large objects must not wait for the garbage collector.
        refused = None
        if form is not None:
            form.images.clear()
        holding.release()
        service.metrics.requests.labels(str(status)).inc()
        service.metrics.latency.observe(time.monotonic() - started)


def _refused(service: Service, error: Exception) -> HTTPException:
    """HTTP error of a failed request."""
    match error:
        case HTTPException():
            return error
        case FormError():
            return HTTPException(error.status, str(error), {"Connection": "close"} if error.close else None)
        case FullError():
            return HTTPException(429, "too many images are waiting; try again in a moment")
        case ClosedError():
            return HTTPException(503, "the server is shutting down")
        case ClientDisconnect():
            return HTTPException(GONE, "the client has disconnected")
        case TimeoutError():
            return HTTPException(504, f"no result within {service.settings.timeout_s:g} seconds")
        case TooManyPixelsError():
            limit = service.settings.request_pixels
            return HTTPException(413, f"the images of the request have {error} pixels; {limit} are allowed in total")
        case BrokenTaskError() | ReplacedTaskError() | SlowTaskError():
            return HTTPException(503, str(error))
        case TaskError() | BadImage():
            return HTTPException(422, str(error))
        case _:
            logger.error("a request failed", exc_info=error)
            return HTTPException(500, "the request failed; see the log of the server")


async def _form(service: Service, request: Request, clock: asyncio.Timeout, holding: Holding) -> Form:
    settings = service.settings
    reader = FormReader(request.headers.get("content-type", ""), settings.max_images, settings.max_tasks + 8)
    try:
        service.allowed(request)  # a missing key is reported before anything is read
        most = int(settings.upload_mb * 1_000_000)
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length) > most:
            raise FormError(413, f"the request is larger than {settings.upload_mb:g} MB")
        async with clock:
            form = await read_form(reader, request.stream(), holding, most)
    except TimeoutError:
        if holding.refused:
            raise FormError(503, "too many bytes are being uploaded; try again in a moment", close=True) from None
        text = f"the request did not arrive within {settings.upload_s:g} seconds"
        raise FormError(408, text, close=True) from None
    finally:
        reader.close()
    if not form.images:
        raise HTTPException(422, "send at least one image: the form field 'images'")
    return form


def _tasks(service: Service, form: Form) -> tuple[str, ...]:
    """Names of tasks without duplicates. A name that contains a comma must be sent as a separate field."""
    served = service.folder.tasks
    named = [
        part.strip()
        for value in form.tasks
        for part in ([value] if value.strip() in served else value.split(","))
        if part.strip()
    ]
    return tuple(dict.fromkeys(named))


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Do the work unless the client disconnects.

    Raises:
        ClientDisconnect: the client disconnected.
    """

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    both = (working, leaving)
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for each in both:
            each.cancel()
        await asyncio.gather(*both, return_exceptions=True)
        del working, leaving, both  # a task, its error and this frame form a reference cycle


def _number(form: Form, key: str, default: float, low: float, high: float) -> float:
    text = form.fields.get(key, "")
    try:
        value = float(text[:40]) if text else default
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise HTTPException(422, f"{key}={text[:40]} must be a number from {low:g} to {high:g}")
    return value


async def _prepared(
    service: Service, asked: Asked, tasks: Sequence[str]
) -> list[list[Prepared | UserError] | BadImage]:
    """Decode images and prepare them for each task in one step; files and full images are released."""

    options = {task: service.bank.read_options(task) for task in tasks}

    def finishing(own: ReadOptions) -> Finish[dict[str, Prepared | UserError]]:
        mine = [task for task in tasks if options[task] == own]

        def finish(pixels: np.ndarray, name: str) -> dict[str, Prepared | UserError]:
            made = service.bank.prepare(pixels, name, mine)
            return {
                task: bare(each) if isinstance(each, UserError) else each for task, each in zip(mine, made, strict=True)
            }

        return finish

    decoded = await service.decoder.run(asked.form.images, {own: finishing(own) for own in options.values()})
    asked.form.images.clear()
    asked.holding.release()
    results: list[list[Prepared | UserError] | BadImage] = []
    for each in decoded:
        if isinstance(each, BadImage):
            results.append(each)
            continue
        found = [(task, each[options[task]]) for task in tasks]
        results.append([made if isinstance(made, BadImage) else made[task] for task, made in found])
    return results


async def predict(service: Service, asked: Asked) -> dict[str, Any]:
    """Predict every image with every task."""
    names, tasks = [upload.name for upload in asked.form.images], asked.tasks
    top = int(_number(asked.form, "top", 5, 1, 1000))
    least = _number(asked.form, "score", 0.3, 0, 1)
    _check_size(service, len(names), tasks, top)
    ready = await _prepared(service, asked, tasks)
    bad = [each for each in ready if isinstance(each, BadImage)]
    if len(bad) == len(ready):
        raise HTTPException(422, "; ".join(str(each) for each in bad))
    found: dict[tuple[int, str], Any] = {}
    works: dict[tuple[int, str], Work] = {}
    for number, each in enumerate(ready):
        if not isinstance(each, BadImage):
            for task, image in zip(tasks, each, strict=True):
                if isinstance(image, UserError):
                    found[number, task] = image
                else:
                    works[number, task] = Work(task, image.shape, Prediction(image, task, top))
    answers = await service.batcher.submit(list(works.values()), asked.end - time.monotonic())
    found |= zip(works, answers, strict=True)
    failed = [each for each in found.values() if isinstance(each, UserError)]
    if len(failed) == len(found):
        raise bare(failed[0])
    results = []
    for number, (name, each) in enumerate(zip(names, ready, strict=True)):
        if isinstance(each, BadImage):
            results.append({"image": name, "error": each.reason})
            continue
        for task in tasks:
            answer = found[number, task]
            results.append(row_of(answer, name, task, top, least))
            if not isinstance(answer, UserError):
                service.metrics.count_image(task)
    return {"results": results}


def _check_size(service: Service, images: int, tasks: Sequence[str], top: int) -> None:
    """Raise HTTPException for a request that can never be answered; not 429, which asks the client to try
    again."""
    answers, queue = images * len(tasks), service.settings.queue
    if answers > queue:
        raise HTTPException(
            413,
            f"{images} images with {len(tasks)} tasks are {answers} results in one request, more than the {queue} that "
            "fit into the queue; send fewer images or tasks at a time",
        )
    scores = images * sum(min(top, service.folder.classes(task)) for task in tasks)
    if scores > MAX_SCORES:
        raise HTTPException(413, f"the response would contain {scores} scores, more than {MAX_SCORES}; lower top={top}")


async def attention(service: Service, asked: Asked) -> dict[str, Any]:
    """Attention maps of the first task for the first image."""
    task = asked.tasks[0]
    del asked.form.images[1:]
    (ready,) = await _prepared(service, asked, [task])
    if isinstance(ready, BadImage):
        raise bare(ready)
    (image,) = ready
    if isinstance(image, UserError):
        raise bare(image)
    work = Work(task, ("attention", image.shape), Attention(image, task))
    (found,) = await service.batcher.submit([work], asked.end - time.monotonic())
    if isinstance(found, UserError):
        raise bare(found)
    return {**found, "square": data_uri(found["square"])}
