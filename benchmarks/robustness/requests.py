"""Hostile requests, as the bytes that go over the wire."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator

from benchmarks.robustness.uploads import picture

BOUNDARY = b"boundary"


def requests(task: str = "task", bulk: int = 18_000_000, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Names and bytes, without end: every kind of attack once, then good requests with damaged bytes.

    Args:
        task: a task that is served.
        bulk: size of those that are large, in bytes; a server takes requests of 20 MB.
        seed: of the damage.
    """
    for name, make in KINDS.items():
        yield name, make(task.encode(), bulk)
    chance = random.Random(seed)
    good = [predict(task.encode()), get(b"/ready"), get(b"/v1/tasks"), chunked(form(image(), field(b"tasks", b"t")))]
    for number in itertools.count():
        yield f"damaged {number}", _damaged(good[number % len(good)], chance)


def get(path: bytes, *headers: bytes, method: bytes = b"GET") -> bytes:
    """A request without a body."""
    return b"\r\n".join([method + b" " + path + b" HTTP/1.1", b"Host: localhost", *headers, b"", b""])


def post(body: bytes, *headers: bytes, kind: bytes = b"multipart/form-data; boundary=" + BOUNDARY) -> bytes:
    """A request for a prediction."""
    length = b"Content-Length: %d" % len(body)
    return get(b"/v1/predict", b"Content-Type: " + kind, length, *headers, method=b"POST") + body


def chunked(body: bytes, size: int = 4096) -> bytes:
    """A request for a prediction whose body comes in chunks."""
    parts = (body[start : start + size] for start in range(0, len(body), size))
    coded = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    head = (b"Content-Type: multipart/form-data; boundary=" + BOUNDARY, b"Transfer-Encoding: chunked")
    return get(b"/v1/predict", *head, method=b"POST") + coded


def form(*parts: bytes) -> bytes:
    """A whole form."""
    return b"".join(b"--" + BOUNDARY + b"\r\n" + part + b"\r\n" for part in parts) + b"--" + BOUNDARY + b"--\r\n"


def field(name: bytes, value: bytes, *headers: bytes) -> bytes:
    """A field of a form."""
    return b"\r\n".join([b'Content-Disposition: form-data; name="' + name + b'"', *headers, b"", value])


def image(content: bytes | None = None, name: bytes = b"a.png", *headers: bytes) -> bytes:
    """An image of a form."""
    head = b'Content-Disposition: form-data; name="images"; filename="' + name + b'"'
    return b"\r\n".join([head, *headers, b"", picture("PNG") if content is None else content])


def predict(task: bytes) -> bytes:
    """A good request."""
    return post(form(image(), field(b"tasks", task)))


def _damaged(content: bytes, chance: random.Random) -> bytes:
    data = bytearray(content)
    if chance.random() < 0.2:
        del data[chance.randrange(len(data)) :]
        return bytes(data)
    reach = min(len(data), 300 if chance.random() < 0.7 else len(data))
    for _ in range(chance.choice((1, 1, 4, 16))):
        place, what = chance.randrange(reach), chance.random()
        if what < 0.2:
            data[place:place] = chance.choice((b"\0", b"\r\n", b"\r\n\r\n", b"--", b":", b";", b'"', b"%", b"\xff"))
        elif what < 0.3:
            del data[place]
        else:
            data[place] = chance.randrange(256)
        reach = min(reach, len(data))
    return bytes(data)


def _in_charset(charset: bytes) -> Callable[[bytes, int], bytes]:
    def make(task: bytes, bulk: int) -> bytes:
        kind = b"multipart/form-data; boundary=" + BOUNDARY + b"; charset=" + charset
        return post(form(image(), field(b"tasks", b"a-" + b"a" * min(bulk, 1_000_000))), kind=kind)

    return make


def _part(*headers: bytes) -> Callable[[bytes, int], bytes]:
    return lambda task, bulk: post(form(image(None, b"a", *headers), field(b"tasks", task)))


def _named(name: bytes) -> Callable[[bytes, int], bytes]:
    return lambda task, bulk: post(form(image(None, name), field(b"tasks", task)))


def _body(make: Callable[[bytes, int], bytes]) -> Callable[[bytes, int], bytes]:
    return lambda task, bulk: post(make(task, bulk))


FORM_TYPE = b"multipart/mixed; boundary=" + BOUNDARY
WEBSOCKET = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: AAAA")
OPEN = b"--" + BOUNDARY + b"\r\n" + image(b"")  # an image whose content may follow

KINDS: dict[str, Callable[[bytes, int], bytes]] = {
    # charsets and encodings
    "a megabyte in punycode": _in_charset(b"punycode"),
    "a megabyte in idna": _in_charset(b"idna"),
    "a megabyte in UTF-7": _in_charset(b"utf-7"),
    "a megabyte in rot13": _in_charset(b"rot13"),
    "a charset that is a codec of bytes": _in_charset(b"zlib_codec"),
    "a charset with a zero byte": _in_charset(b"utf-8\0"),
    "a charset of a megabyte": lambda task, bulk: _in_charset(b"x" * 10_000)(task, bulk),
    "a field named _charset_": _body(
        lambda task, bulk: form(field(b"_charset_", b"punycode"), image(), field(b"tasks", b"a" * 60_000))
    ),
    "a field in punycode by its own header": _body(
        lambda task, bulk: form(image(), field(b"tasks", task, b"Content-Type: text/plain; charset=punycode"))
    ),
    "a field that is no UTF-8": _body(lambda task, bulk: form(image(), field(b"tasks", b"\xff\xfe\xed\xa0\x80"))),
    "a field of base64": _part(b"Content-Transfer-Encoding: base64"),
    "a compressed request": lambda task, bulk: post(form(image(), field(b"tasks", task)), b"Content-Encoding: gzip"),
    # many and long
    "tasks that are commas": _body(lambda task, bulk: form(image(), field(b"tasks", b"," * bulk))),
    "tasks of two letters": _body(lambda task, bulk: form(image(), field(b"tasks", b"ab," * (bulk // 3)))),
    "tasks that are spaces": _body(lambda task, bulk: form(image(), field(b"tasks", b" " * bulk))),
    "a task of a megabyte": _body(lambda task, bulk: form(image(), field(b"tasks", b"a" * 1_000_000))),
    "a task of 64 KB": _body(lambda task, bulk: form(image(), field(b"tasks", b"a" * 65_000))),
    "ten thousand fields": _body(lambda task, bulk: form(image(), *[field(b"tasks", task)] * 10_000)),
    "ten thousand images": _body(lambda task, bulk: form(field(b"tasks", task), *[image(b"")] * 10_000)),
    "ten thousand parts without headers": _body(lambda task, bulk: form(*[b"\r\n"] * 10_000)),
    "top of many digits": _body(lambda task, bulk: form(image(), field(b"tasks", task), field(b"top", b"9" * 60_000))),
    "top that is no number": _body(lambda task, bulk: form(image(), field(b"tasks", task), field(b"top", b"nan"))),
    "score that is no number": _body(lambda task, bulk: form(image(), field(b"tasks", task), field(b"score", b"inf"))),
    # headers of parts
    "a part of many headers": _part(*[b"X-%d: y" % number for number in range(5000)]),
    "a part with a header of a megabyte": _part(b"X: " + b"y" * 1_000_000),
    "a part with a header that never ends": _body(lambda task, bulk: b"--" + BOUNDARY + b"\r\nX: " + b"y" * bulk),
    "a part with a header name of a megabyte": _part(b"X" * 1_000_000 + b": y"),
    "a disposition of semicolons": _named(b'a"' + b";" * 4000),
    "a disposition of quotes": _named(b'a\\"' * 1000),
    "a part that is no form data": _body(lambda task, bulk: form(b"Content-Disposition: attachment\r\n\r\n")),
    "a part within a part": _body(
        lambda task, bulk: form(image(form(image(), field(b"tasks", task)), b"a", b"Content-Type: " + FORM_TYPE))
    ),
    # names of files
    "a name of a path": _named(b"../../../../etc/passwd"),
    "a name with zero bytes": _named(b"a\0b"),
    "a name that is no UTF-8": _named(b"\xff\xfe\x80"),
    "a name of a lone surrogate": _named(b"\xed\xa0\x80"),
    "a name of 3000 letters": _named(b"a" * 3000),
    "a name of escape characters": _named(b"\x1b[2J\x1b]0;title\x07"),
    "a name of a script": _named(b"<script>alert(1)</script>"),
    "an extended name": lambda task, bulk: post(
        form(image().replace(b'filename="', b"filename*=punycode''" + b"a" * 3000 + b'; x="'), field(b"tasks", task))
    ),
    # boundaries
    "boundaries that are none": _body(lambda task, bulk: OPEN + (b"\r\n--" + BOUNDARY + b"x") * (bulk // 13)),
    "a boundary that is never closed": _body(lambda task, bulk: OPEN + b"\r\n--" + BOUNDARY + b" " * bulk),
    "line ends alone": _body(lambda task, bulk: OPEN + b"\r\n" * (bulk // 2)),
    "line ends before the form": _body(lambda task, bulk: b"\r\n" * (bulk // 2)),
    "text after the form": _body(lambda task, bulk: form(image(), field(b"tasks", task)) + b"x" * bulk),
    "no boundary": lambda task, bulk: post(form(image()), kind=b"multipart/form-data"),
    "a boundary of 3000 letters": lambda task, bulk: post(b"", kind=b"multipart/form-data; boundary=" + b"b" * 3000),
    "an empty boundary": lambda task, bulk: post(b"--\r\n\r\n", kind=b"multipart/form-data; boundary="),
    "a content type of semicolons": lambda task, bulk: post(b"", kind=b"multipart/form-data" + b";" * 12_000),
    "a content type of quotes": lambda task, bulk: post(b"", kind=b'multipart/form-data; a="' + b'x;"' * 4000),
    "another content type": lambda task, bulk: post(b"tasks=" + b"a" * bulk, kind=b"application/x-www-form-urlencoded"),
    "JSON, nested": lambda task, bulk: post(b"[" * bulk, kind=b"application/json"),
    "a form cut short": lambda task, bulk: post(form(image(), field(b"tasks", task))[:-4]),
    # bodies
    "more than is allowed": lambda task, bulk: post(b"x" * 21_000_000),
    "a length of many digits": lambda task, bulk: get(b"/v1/predict", b"Content-Length: " + b"9" * 300, method=b"POST"),
    "a negative length": lambda task, bulk: get(b"/v1/predict", b"Content-Length: -1", method=b"POST"),
    "two lengths": lambda task, bulk: post(form(image()), b"Content-Length: 1"),
    "a length and chunks": lambda task, bulk: post(form(image()), b"Transfer-Encoding: chunked"),
    "chunks of one byte": lambda task, bulk: chunked(OPEN + bytes(bulk // 6), 1),
    "a chunk of many digits": lambda task, bulk: chunked(b"")[:-5] + b"f" * 1000 + b"\r\n",
    "a chunk that is negative": lambda task, bulk: chunked(b"")[:-5] + b"-1\r\n\r\n",
    "chunks with long extensions": lambda task, bulk: (
        chunked(b"")[:-5] + b"1;" + b"x" * 100_000 + b"\r\na\r\n0\r\n\r\n"
    ),
    "a body for a page": lambda task, bulk: get(b"/", b"Content-Length: %d" % bulk) + bytes(bulk),
    # lines and headers
    "a path of a megabyte": lambda task, bulk: get(b"/" + b"a" * 1_000_000),
    "a path of 15 KB": lambda task, bulk: get(b"/" + b"a" * 15_000),
    "a path of escapes": lambda task, bulk: get(b"/%00%ff%0d%0aX:%20y" * 100),
    "a path upwards": lambda task, bulk: get(b"/../../../../etc/passwd"),
    "an absolute path": lambda task, bulk: get(b"http://elsewhere.invalid/ready"),
    "a query of a megabyte": lambda task, bulk: get(b"/v1/tasks?" + b"a=b&" * 250_000),
    "ten thousand headers": lambda task, bulk: get(b"/ready", *[b"X-%d: y" % number for number in range(10_000)]),
    "a hundred and one headers": lambda task, bulk: get(b"/ready", *[b"X-%d: y" % number for number in range(101)]),
    "a header of a megabyte": lambda task, bulk: get(b"/ready", b"X: " + b"y" * 1_000_000),
    "a folded header": lambda task, bulk: get(b"/ready", b"X: a", b" b"),
    "a header without a colon": lambda task, bulk: get(b"/ready", b"nothing"),
    "a header with a zero byte": lambda task, bulk: get(b"/ready", b"X: a\0b"),
    "no host": lambda task, bulk: b"GET /ready HTTP/1.1\r\n\r\n",
    "two hosts": lambda task, bulk: get(b"/ready", b"Host: elsewhere.invalid"),
    "another host": lambda task, bulk: b"GET /ready HTTP/1.1\r\nHost: elsewhere.invalid\r\n\r\n",
    "an older version": lambda task, bulk: b"GET /ready HTTP/0.9\r\n\r\n",
    "a newer version": lambda task, bulk: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": lambda task, bulk: b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(500),
    "noise": lambda task, bulk: random.Random(0).randbytes(min(bulk, 1_000_000)),
    "an unknown method": lambda task, bulk: get(b"/v1/predict", method=b"BREW"),
    "a method of 10 KB": lambda task, bulk: get(b"/ready", method=b"A" * 10_000),
    "an upgrade": lambda task, bulk: get(b"/", *WEBSOCKET),
    "a request from another site's page": lambda task, bulk: post(
        form(image(), field(b"tasks", task)), b"Sec-Fetch-Site: cross-site"
    ),
    "a key that is no text": lambda task, bulk: get(b"/v1/tasks", b"Authorization: Bearer \xff\xfe"),
    "a key of 10 KB": lambda task, bulk: get(b"/v1/tasks", b"X-API-Key: " + b"k" * 10_000),
    "a thousand requests at once": lambda task, bulk: get(b"/health") * 1000,
    "half a request": lambda task, bulk: predict(task)[:60],
    "nothing": lambda task, bulk: b"",
    # tasks
    "a task upwards": _body(lambda task, bulk: form(image(), field(b"tasks", b"../" + task))),
    "a task with a zero byte": _body(lambda task, bulk: form(image(), field(b"tasks", task + b"\0"))),
    "a task in escapes": _body(lambda task, bulk: form(image(), field(b"tasks", b"%2e%2e%2f" + task))),
    "an unknown task": _body(lambda task, bulk: form(image(), field(b"tasks", b"x" * 100))),
}
