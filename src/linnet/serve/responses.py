"""Files of clips, as HTTP has it: parts of them, conditions, and the name under which a client keeps one."""

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi.responses import FileResponse, Response
from starlette.datastructures import Headers

from linnet.serve.schemas import Refused

RECENTLY = 60.0  # seconds: a player asks for one piece after the other
MOST_RANGES = 32  # of one request; a client that asks for more gets the whole file
RANGE = re.compile(r"(?=.*[0-9])([0-9]{0,30})-([0-9]{0,30})")


class ClipFile(FileResponse):
    """A clip's file, called `name` where it is kept; or a part of it, or word that the client has it already. A header
    that asks for a part or sets a condition counts as RFC 9110 has it. Whoever keeps account of it learns when it is
    `over`, sent or not. FileNotFoundError if there is none."""

    def __init__(self, path: Path, kind: str, *, name: str, over: Callable[[], None]) -> None:
        super().__init__(
            path,
            media_type=kind,
            headers={"Cache-Control": "private, max-age=3600", "Content-Disposition": disposition(name)},
            stat_result=path.stat(),
        )
        self.over = over

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            headers = Headers(scope=scope)
            if (status := self.condition(headers)) == 412:
                raise Refused(412, "changed", "the file is not, or no longer, the one that is asked for")
            if status == 304:
                same = {name: self.headers[name] for name in ("etag", "last-modified", "cache-control")}
                await Response(status_code=304, headers=same)(scope, receive, send)
                return
            size = int(self.headers["content-length"])
            part = usable_range(headers.get("range", ""), size)
            here = (self.headers["etag"], self.headers["last-modified"])
            if part == "" and headers.get("if-range", here[0]) in here:
                limit = {"Content-Range": f"bytes */{size}"}
                raise Refused(416, "no_such_range", "it has no such part", param="Range", headers=limit)
            others = [(name, value) for name, value in scope["headers"] if name != b"range"]
            ranges = [(b"range", part.encode())] if part else []
            await super().__call__(scope | {"headers": others + ranges}, receive, send)
        finally:
            self.over()

    def condition(self, headers: Headers) -> int:
        """200 where the file is to be sent; 304 where the client has it; 412 where it asks for another."""
        etag, date = self.headers["etag"], self.headers["last-modified"]
        if "if-match" in headers:
            if headers["if-match"].strip() != "*" and etag not in tags(headers.getlist("if-match")):
                return 412
        elif "if-unmodified-since" in headers and is_later(date, headers["if-unmodified-since"]):
            return 412
        if "if-none-match" in headers:
            given = headers.getlist("if-none-match")
            same = etag in {tag.removeprefix("W/") for tag in tags(given)} or "*" in tags(given)
            return 304 if same else 200
        since = headers.get("if-modified-since", "")
        return 304 if is_later(date, since) is False else 200


def usable_range(given: str, size: int) -> str | None:
    """The parts that the file has, as a Range header; empty if it has none of them. None where the header does not
    count, since its unit is another or it is no range: then all is sent."""
    unit, _, rest = given.partition("=")
    parts = [part for text in rest.split(",") if (part := text.strip(" \t"))]
    if unit.strip().lower() != "bytes" or not 0 < len(parts) <= MOST_RANGES:
        return None
    usable: list[str] = []
    for part in parts:
        if not (positions := RANGE.fullmatch(part)):
            return None
        first, last = (int(position) if position else None for position in positions.groups())
        if first is not None and last is not None and last < first:
            return None
        if first < size if first is not None else last:
            usable.append(part)
    return "bytes=" * bool(usable) + ",".join(usable)


def tags(given: list[str]) -> set[str]:
    """Of what the client has already."""
    return {tag.strip() for tag in ",".join(given).split(",")}


def is_later(date: str, than: str) -> bool | None:
    """None where one of the two is no date of HTTP."""
    with suppress(ValueError, TypeError):
        return parsedate_to_datetime(date) > parsedate_to_datetime(than)
    return None


def disposition(name: str) -> str:
    """Under which name a client keeps it: for old clients in ASCII alone, and as it is (RFC 6266)."""
    plain = re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)
    return f'inline; filename="{plain}"' + (f"; filename*=UTF-8''{quote(name)}" if plain != name else "")


class OpenFiles:
    """Which jobs' files are being sent, by any thread, or were a moment ago: those are not removed to make room."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now: Counter[str] = Counter()
        self._last: dict[str, float] = {}
        self._leaving: set[str] = set()

    def begin(self, job: str) -> bool:
        """Before its files are looked at; False if they are being removed."""
        with self._lock:
            if job not in self._leaving:
                self._now[job] += 1
            return job not in self._leaving

    def end(self, job: str) -> None:
        """All was sent, or nobody listens any more."""
        with self._lock:
            self._now -= Counter([job])  # which keeps no zeros
            self._last[job] = time.monotonic()

    @contextmanager
    def keep_out(self, job: str) -> Iterator[bool]:
        """Whether nobody reads it, or did so recently; then nobody can begin to meanwhile."""
        with self._lock:
            past = time.monotonic() - RECENTLY
            self._last = {read: last for read, last in self._last.items() if last > past}
            free = job not in self._last and job not in self._now
            if free:
                self._leaving.add(job)
        try:
            yield free
        finally:
            with self._lock:
                self._leaving.discard(job)
