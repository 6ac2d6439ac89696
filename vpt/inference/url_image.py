"""An image at an http or https address, downloaded when it is read, with limits on size and time.

Only prediction on the command line and in Python takes addresses; the server never fetches anything.
"""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any

from vpt.data.decode import BadImage
from vpt.utils.version import own_version

MOST_BYTES = 64 << 20
SECONDS = 30.0  # for the whole download; also the limit for one answer of the other side
SCHEMES = ("http://", "https://")


def is_url(text: object) -> bool:
    """Whether a name of an image is an address.

    >>> is_url("https://example.org/cat.jpg"), is_url("file:///etc/passwd"), is_url("photos/cat.jpg")
    (True, False, False)
    """
    return isinstance(text, str) and text.lower().startswith(SCHEMES)


class UrlImage:
    """The image at an address; `read` downloads its bytes once and keeps them.

    Args:
        url: http or https address.

    >>> UrlImage("https://example.org/cat.jpg").name
    'https://example.org/cat.jpg'
    """

    def __init__(self, url: str) -> None:
        self.name = url
        self._content: bytes | None = None

    def read(self) -> bytes:
        """The bytes of the file.

        Raises:
            BadImage: it cannot be downloaded, is too large, or takes too long.
        """
        if self._content is None:
            try:
                self._content = _download(self.name)
            except urllib.error.HTTPError as error:
                error.close()
                raise BadImage(self.name, f"the server answers {error.code} {error.reason}") from None
            except TimeoutError:
                raise BadImage(self.name, f"the server took longer than {SECONDS:.0f} seconds") from None
            except urllib.error.URLError as error:
                slow = isinstance(error.reason, TimeoutError)
                why = f"the server took longer than {SECONDS:.0f} seconds" if slow else str(error.reason)
                raise BadImage(self.name, f"could not download it: {why}") from None
            except (OSError, HTTPException, ValueError) as error:
                raise BadImage(self.name, f"could not download it: {error}") from None
        return self._content


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https only."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not is_url(newurl):
            fp.close()
            raise urllib.error.URLError(f"it redirects to {newurl.partition(':')[0]}:, which is not http or https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(url: str) -> bytes:
    # Built by hand: the usual opener also has handlers of file:, ftp: and data:.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    end = time.monotonic() + SECONDS
    request = urllib.request.Request(url, headers={"User-Agent": f"vpt/{own_version()}", "Accept": "image/*"})
    parts: list[bytes] = []
    size = 0
    with opener.open(request, timeout=SECONDS) as answer:
        while part := answer.read1(1 << 16):
            size += len(part)
            if size > MOST_BYTES:
                raise BadImage(url, f"it is larger than {MOST_BYTES >> 20} MB; download it yourself")
            if time.monotonic() > end:
                raise TimeoutError
            parts.append(part)
    return b"".join(parts)
