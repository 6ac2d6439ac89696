"""Parser of untrusted multipart forms with images, with bounded memory and work proportional to the bytes."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

HEADER_BYTES = 4096  # maximum per part
FIELD_BYTES = 64 * 1024  # maximum of all fields that are not images
PADDING = 64  # maximum blanks after a boundary
SEMICOLONS = 300  # maximum in the header of a part; a name may contain some
NAME_LENGTH = 255  # maximum characters of an image name
SLICE = 64 * 1024  # bytes parsed before yielding to other requests


class FormError(Exception):
    """Raised if a form is refused: the status, the reason, and whether to close without reading the rest."""

    def __init__(self, status: int, text: str, close: bool = False) -> None:
        super().__init__(text)
        self.status = status
        self.close = close


@dataclass(frozen=True)
class Upload:
    """An uploaded image."""

    name: str
    content: bytes


@dataclass(frozen=True)
class Form:
    """Content of a form."""

    images: list[Upload]  # until they are decoded
    tasks: tuple[str, ...]  # as sent; each may be several names joined by commas
    fields: Mapping[str, str]


@dataclass
class _Part:
    headers: dict[bytes, bytes] = field(default_factory=dict)
    header_name: bytearray = field(default_factory=bytearray)
    header_value: bytearray = field(default_factory=bytearray)
    name: str = ""
    file_name: str | None = None
    content: io.BytesIO = field(default_factory=io.BytesIO)


class FormReader:
    """Incremental parser of a form.

    Args:
        content_type: Content-Type header of the request.
        max_images: maximum number of images.
        max_fields: maximum number of other fields.

    Raises:
        FormError: the body is not a form, or not in UTF-8.

    >>> reader = FormReader("multipart/form-data; boundary=b", max_images=1, max_fields=1)
    >>> reader.feed(b'--b\\r\\nContent-Disposition: form-data; name="tasks"\\r\\n\\r\\nflowers\\r\\n--b--\\r\\n')
    >>> reader.finish().tasks
    ('flowers',)
    """

    def __init__(self, content_type: str, max_images: int, max_fields: int) -> None:
        kind, options = parse_options_header(content_type) if len(content_type) <= 1024 else (b"", {})
        if kind != b"multipart/form-data":
            raise FormError(415, "send a form (multipart/form-data) with the fields 'images' and 'tasks'")
        charset = options.get(b"charset", b"utf-8").lower()
        if charset not in (b"utf-8", b"utf8", b"us-ascii"):
            raise FormError(415, "send the form in UTF-8")
        self._boundary = options.get(b"boundary", b"")
        if not self._boundary or len(self._boundary) > 200:
            raise FormError(400, "the form cannot be read: its Content-Type has no boundary")
        self._max_images, self._max_fields = max_images, max_fields
        self._images: list[Upload] = []
        self._fields: list[tuple[str, str]] = []
        self._part = _Part()
        self._delimiter = b"\r\n--" + self._boundary
        self._tail = b""  # end of the received data, which may contain the start of a delimiter
        self._delimiters = self._field_bytes = self._header_bytes = 0
        self._ended = False
        self._parser = MultipartParser(
            self._boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": lambda data, start, end: self._header(self._part.header_name, data[start:end]),
                "on_header_value": lambda data, start, end: self._header(self._part.header_value, data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_part_data": self._data,
                "on_part_end": self._end,
                "on_end": self._finish,
            },
        )

    def feed(self, data: bytes) -> None:
        """Parse a piece of the body, preferably at most `SLICE` bytes.

        Raises:
            FormError: a limit is exceeded, or the body is not a form.
        """
        self._check_delimiters(data)
        try:
            self._parser.write(data)
        except FormParserError:
            raise FormError(400, "the form cannot be read: its parts are malformed") from None

    def _check_delimiters(self, data: bytes) -> None:
        """Raise FormError for input that the parser reads slowly byte by byte: many boundaries, or blanks after one."""
        self._delimiters += data.count(self._delimiter)
        if self._delimiters > 2 * (self._max_images + self._max_fields) + 8:
            raise FormError(400, "the form cannot be read: it has too many parts")
        seen = self._tail + data
        at = seen.find(self._delimiter)
        while at >= 0:
            start = at + len(self._delimiter)
            blanks = seen[start : start + PADDING + 1]
            if len(blanks) > PADDING and not blanks.strip(b" \t"):
                raise FormError(400, "the form cannot be read: its parts are malformed")
            at = seen.find(self._delimiter, start)
        self._tail = seen[-len(self._delimiter) - PADDING :]

    def finish(self) -> Form:
        """The parsed form.

        Raises:
            FormError: the body ended within a part.
        """
        if not self._ended:
            raise FormError(400, "the form cannot be read: it is cut short")
        tasks = tuple(value for name, value in self._fields if name == "tasks")
        return Form(self._images, tasks, dict(self._fields))

    def close(self) -> None:
        """Release the data. The parser and its reader form a reference cycle, which would keep it for long."""
        self._parser.callbacks = {}
        self._images, self._fields, self._part = [], [], _Part()

    def _begin(self) -> None:
        self._part = _Part()
        self._header_bytes = 0

    def _header(self, part: bytearray, data: bytes) -> None:
        self._header_bytes += len(data)
        if self._header_bytes > HEADER_BYTES:
            raise FormError(400, f"the form cannot be read: a part has more than {HEADER_BYTES} bytes of headers")
        part += data

    def _end_header(self) -> None:
        part = self._part
        part.headers[bytes(part.header_name).lower()] = bytes(part.header_value)
        part.header_name, part.header_value = bytearray(), bytearray()

    def _end_headers(self) -> None:
        part = self._part
        disposition = part.headers.get(b"content-disposition", b"")
        if disposition.count(b";") > SEMICOLONS:  # each costs a step of the parser
            raise FormError(400, f"the form cannot be read: a part has a header of more than {SEMICOLONS} semicolons")
        kind, options = parse_options_header(disposition)
        if kind != b"form-data" or b"name" not in options:
            raise FormError(400, "the form cannot be read: a part has no name")
        if part.headers.get(b"content-transfer-encoding", b"binary").lower() not in (b"binary", b"8bit", b"7bit"):
            raise FormError(400, "the form cannot be read: send parts without Content-Transfer-Encoding")
        part.name = _text(options[b"name"], "the name of a part")
        if b"filename" in options:
            if len(self._images) == self._max_images:
                raise FormError(413, f"more than {self._max_images} images in one request")
            part.file_name = options[b"filename"].decode("utf-8", "replace")[:NAME_LENGTH]
        elif part.name == "images":
            raise FormError(422, "the field 'images' must be a file: images=@photo.jpg with curl")
        elif len(self._fields) == self._max_fields:
            raise FormError(400, f"the form cannot be read: it has more than {self._max_fields} fields")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._part.file_name is None:
            self._field_bytes += end - start
            if self._field_bytes > FIELD_BYTES:
                raise FormError(413, f"the fields of the form are larger than {FIELD_BYTES // 1024} KB")
        self._part.content.write(data[start:end])

    def _end(self) -> None:
        part = self._part
        content = part.content.getvalue()
        if part.file_name is None:
            self._fields.append((part.name, _text(content, f"the field '{part.name}'")))
        else:
            self._images.append(Upload(part.file_name or f"image {len(self._images) + 1}", content))

    def _finish(self) -> None:
        self._ended = True


def _text(content: bytes, what: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise FormError(400, f"the form cannot be read: {what} is not UTF-8") from None


class Uploads:
    """Memory budget of all requests.

    If it is exceeded, the largest request that is still being received is cancelled, so that large idle uploads do not
    block small requests.

    Args:
        limit: maximum bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._coming: set[Holding] = set()

    def begin(self, clock: asyncio.Timeout) -> Holding:
        """Start to count a request; `clock` can cancel its reading."""
        made = Holding(self, clock)
        self._coming.add(made)
        return made

    def _grow(self, holding: Holding, number: int) -> None:
        holding.bytes += number
        self.held += number
        if self.held > self.limit and self._coming:
            largest = max(self._coming, key=lambda each: each.bytes)
            largest.refused = True
            self._coming.discard(largest)
            with contextlib.suppress(RuntimeError):  # it has already timed out
                largest.clock.reschedule(0)

    def _let_go(self, holding: Holding) -> None:
        self._coming.discard(holding)
        self.held -= holding.bytes
        holding.bytes = 0


class Holding:
    """Bytes of one request within the budget."""

    def __init__(self, uploads: Uploads, clock: asyncio.Timeout) -> None:
        self.uploads = uploads
        self.clock = clock
        self.bytes = 0
        self.refused = False

    def grow(self, number: int) -> None:
        """Count received bytes."""
        self.uploads._grow(self, number)

    def complete(self) -> None:
        """Mark the request as complete; it is no longer cancelled."""
        self.uploads._coming.discard(self)

    def release(self) -> None:
        """Release all bytes of the request."""
        self.uploads._let_go(self)


async def read_form(reader: FormReader, body: AsyncIterator[bytes], holding: Holding, max_bytes: int) -> Form:
    """Read a form from a request stream.

    Raises:
        FormError: the request is too large, or not a form.
    """
    seen = 0
    async for chunk in body:
        seen += len(chunk)
        if seen > max_bytes:
            raise FormError(413, f"the request is larger than {max_bytes / 1e6:g} MB")
        holding.grow(len(chunk))
        for start in range(0, len(chunk), SLICE):
            if start:
                await asyncio.sleep(0)
            reader.feed(chunk[start : start + SLICE])
    holding.complete()
    return reader.finish()
