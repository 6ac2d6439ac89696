"""Where the files inside a tar archive are, so that each can be read by itself. Nothing is extracted.

The archive is untrusted: only regular members are listed, and what a header states is checked against the file's size.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tarfile
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from vpt.utils.atomic_io import read_json, write_text
from vpt.utils.cache_dir import cache_dir
from vpt.utils.errors import UserError

LARGEST = 1 << 29  # bytes of a member that is read
MOST_MEMBERS = 5_000_000
_HEADER = 1 << 20  # bytes of a header with a long name; tarfile would read as many as the archive states
_FORMAT = 1


class Member(NamedTuple):
    """A file inside an archive: its name as written there, and where its bytes are."""

    name: str
    offset: int
    size: int


class _Headers:
    """A file of which only headers are read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _HEADER:
            raise tarfile.ReadError(f"it has a header of {size} bytes")
        return self._file.read(size)


def tar_index(file: Path) -> list[Member]:
    """The regular files in a tar archive, in its order. The list is cached until the archive changes.

    Raises:
        UserError: a file that is missing, compressed, truncated or no tar archive.

    >>> tar_index(Path("no/such.tar"))
    Traceback (most recent call last):
    ...
    vpt.utils.errors.UserError: cannot read no/such.tar: No such file or directory; check data.path
    """
    try:
        with file.open("rb") as raw:
            status = os.fstat(raw.fileno())
            stamp = [_FORMAT, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
            key = hashlib.sha256(os.fsencode(os.path.abspath(file))).hexdigest()[:24]
            cached = cache_dir() / "tar-index" / f"{key}.json"
            if (known := _cached(cached, stamp)) is not None:
                return known
            found = _members(raw, file, status.st_size)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}; check data.path") from None
    with contextlib.suppress(UserError, OSError, ValueError):
        write_text(cached, json.dumps({"stamp": stamp, "members": found}))
    return found


def read_member(file: Path, offset: int, size: int) -> bytes:
    """The bytes of a member.

    Raises:
        OSError: the file cannot be read, or has become shorter.
    """
    if size > LARGEST:
        raise OSError(f"it has {size} bytes, more than {LARGEST}")
    with file.open("rb", buffering=0) as raw:
        raw.seek(offset)
        content = raw.read(size)
    if content is None or len(content) != size:
        raise OSError(f"{file.name} has changed: it ends before the image")
    return content


def _members(raw: IO[bytes], file: Path, whole: int) -> list[Member]:
    found: list[Member] = []
    try:
        with tarfile.open(fileobj=cast(Any, _Headers(raw)), mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # tarfile would keep all of them
                if member.offset_data + member.size > whole:
                    raise UserError(f"{file} is truncated: it ends inside {member.name[:100]!r}; use another copy")
                if member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and member.sparse is None:
                    found.append(Member(member.name, member.offset_data, member.size))
                if len(found) > MOST_MEMBERS:
                    raise UserError(f"{file} contains more than {MOST_MEMBERS} files; divide it into several")
            if archive.offset >= whole:
                raise UserError(f"{file} is truncated: it has no end mark; use another copy")
    except (tarfile.TarError, ValueError, EOFError, OverflowError, RecursionError) as error:
        raw.seek(0)
        packed = raw.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))
        remedy = "it is compressed: unpack it, as with gunzip" if packed else "use another copy"
        raise UserError(f"{file} cannot be read as a tar archive ({error}); {remedy}") from None
    if not found:
        raise UserError(f"{file} contains no files; use another copy")
    return found


def _cached(file: Path, stamp: list[int]) -> list[Member] | None:
    try:
        tree = read_json(file, "it is created again")
        if tree["stamp"] != stamp:
            return None
        return [Member(str(name), int(offset), int(size)) for name, offset, size in tree["members"]]
    except (UserError, KeyError, TypeError, ValueError):
        return None
