"""A client of any server that speaks OpenAI's protocol for chats about pictures: Ollama, vLLM, llama.cpp and others.

The server may fail, hang, or answer anything. Every answer is read up to a limit of time and length, and is a caption
only if it reads like one.
"""

import base64
import http.client
import io
import json
import os
import re
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Event, Timer
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from linnet.errors import InvalidInput, LinnetError, one_line
from linnet.records import read_object_or_nothing

Frame = UInt8[np.ndarray, "H W 3"]

LARGEST_ANSWER = 4 * 2**20  # bytes
LONGEST_CAPTION = 4000  # characters
TRIES = 3
LONGEST_WAIT = 60.0  # seconds between two tries, whatever the server asks for
QUALITY = 90  # of a JPEG
KEY = "OPENAI_API_KEY"  # of the environment; local servers need none
HOPELESS = (400, 401, 403, 404, 405, 422)  # the next clip would be answered the same
THOUGHTS = re.compile(r"<think>.*?</think>", re.DOTALL | re.IGNORECASE)
MARKUP = re.compile(r"<!doctype|<(html|head|body|script|div|p|title|h1)\b", re.IGNORECASE)
REFUSALS = re.compile(
    r"^(i'?m sorry|sorry|i can(no|')t|i am (unable|sorry)|i'?m unable|as an ai)\b", re.IGNORECASE
)


class Unusable(LinnetError):
    """An answer that is no caption; another clip may have a better one."""


@dataclass(frozen=True, kw_only=True)
class VisionServer:
    """`seconds` that an answer may take, to its last byte; `tokens` that it may have."""

    address: str
    model: str
    seconds: float = 120.0
    tokens: int = 512
    connections: set[http.client.HTTPConnection] = field(default_factory=set, compare=False, repr=False)
    stopped: Event = field(default_factory=Event, compare=False, repr=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.address)
        try:
            known = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
        except ValueError:
            known = False
        if not known or parts.query or parts.fragment or not self.address.isprintable():
            remedy = "write it as http://localhost:11434/v1"
            raise InvalidInput("server", self.address, "is not the address of a server", remedy)
        if not self.model.strip():
            raise InvalidInput("model", self.model, "is empty", "name a model that the server has")

    @property
    def path(self) -> str:
        """Of the address, where servers answer: /v1 if it has none of its own."""
        path = urlsplit(self.address).path.rstrip("/").removesuffix("/chat/completions")
        return f"{path or '/v1'}/chat/completions"

    def caption(self, prompt: str, media: Sequence[Mapping[str, Any]]) -> str:
        """Of pictures or a video. Unusable where the server gives none for it; InvalidInput where it gives none for
        any."""
        content = [*media, {"type": "text", "text": prompt}]
        question = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self.tokens,
            "temperature": 0.2,
            "stream": False,
        }
        body = json.dumps(question).encode()
        problem = ""
        for attempt in range(TRIES):
            if self.stopped.is_set():
                raise Unusable("stopped")
            try:
                status, text, wait = self.post(body)
            except TimeoutError as error:
                raise Unusable(f"the server is too slow: {error}") from None
            except (OSError, http.client.HTTPException) as error:
                refused = isinstance(error, ConnectionRefusedError) or "Name or service" in str(error)
                if refused:
                    problem = f"cannot be reached ({one_line(error)})"
                    raise InvalidInput(
                        "server", self.address, problem, "start it, or check the address"
                    ) from None
                problem = f"the server failed ({one_line(error) or type(error).__name__})"
                wait = None
            else:
                if status == 200:
                    return caption_in(text)
                problem = f"the server answered {status}{words_of(text)}"
                if status in HOPELESS:
                    raise InvalidInput("server", self.address, problem, self.remedy_for(status))
                if 300 <= status < 400:
                    raise InvalidInput("server", self.address, problem, "give the address that it leads to")
            if attempt + 1 < TRIES:
                self.stopped.wait(min(LONGEST_WAIT, wait if wait is not None else 2.0**attempt))
        raise Unusable(problem)

    def remedy_for(self, status: int) -> str:
        if status in (401, 403):
            return f"put its key into the environment as {KEY}"
        if status == 404:
            return f"check the address, and that the server has a model {self.model}"
        return "use a model that takes images; `video` only where it takes videos"

    def post(self, body: bytes) -> tuple[int, str, float | None]:
        """Status, text and the seconds to wait that the answer asks for."""
        parts = urlsplit(self.address)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=min(self.seconds, 30.0))
        late = Event()
        watchdog = Timer(self.seconds, self.hang_up, (connection, late))
        watchdog.daemon = True
        self.connections.add(connection)
        try:
            headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
            if key := os.environ.get(KEY):
                headers["Authorization"] = f"Bearer {key}"
            connection.connect()
            assert connection.sock is not None
            connection.sock.settimeout(self.seconds)
            watchdog.start()
            connection.request("POST", self.path, body, headers)
            response = connection.getresponse()
            content = response.read(LARGEST_ANSWER + 1)
            if late.is_set():  # a connection that ends in the headers looks like an empty answer
                raise TimeoutError
            if len(content) > LARGEST_ANSWER:
                raise Unusable(f"the server's answer has over {LARGEST_ANSWER >> 20} MiB")
            wait = response.headers.get("Retry-After", "")
            seconds = float(wait) if re.fullmatch(r"\d{1,6}", wait) else None
            return response.status, content.decode("utf-8", "replace"), seconds
        except (OSError, http.client.HTTPException) as error:
            if late.is_set() or isinstance(error, TimeoutError):
                raise TimeoutError(f"it took over {self.seconds:g} s") from None
            raise
        finally:
            watchdog.cancel()
            self.connections.discard(connection)
            connection.close()

    def stop(self) -> None:
        """No answer is waited for any more, from whichever thread."""
        self.stopped.set()
        for connection in [*self.connections]:
            self.hang_up(connection, self.stopped)

    def hang_up(self, connection: http.client.HTTPConnection, late: Event) -> None:
        """A byte now and then would keep a timeout of the socket from ever being reached."""
        late.set()
        if connection.sock is not None:
            with suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)


def picture(frame: Frame) -> dict[str, Any]:
    """A part of a question."""
    content = io.BytesIO()
    Image.fromarray(frame).save(content, "JPEG", quality=QUALITY)
    return {"type": "image_url", "image_url": {"url": data_url("image/jpeg", content.getvalue())}}


def video(content: bytes) -> dict[str, Any]:
    """An mp4 as a part of a question, for servers that take such."""
    return {"type": "video_url", "video_url": {"url": data_url("video/mp4", content)}}


def data_url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


# --- answers ----------------------------------------------------------------------------------------------------------


def caption_in(text: str) -> str:
    """Unusable, with the reason, for an answer without a caption."""
    answer = read_object_or_nothing(text)
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list):
        content = " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    if not isinstance(choice, dict) or not isinstance(content, str):
        raise Unusable(f"the server's answer is no chat{words_of(text)}")
    if choice.get("finish_reason") == "length":
        raise Unusable("the server's answer ends in the middle; use `tokens` for a longer one")
    return checked(content)


def checked(content: str) -> str:
    """The caption in one line, without what a model thinks aloud or puts around it."""
    caption = " ".join(THOUGHTS.sub(" ", content).split())
    caption = "".join(letter for letter in caption if letter.isprintable()).strip("`\"' ")
    caption = re.sub(r"^(\*\*)?(caption|description)(\*\*)?:(\*\*)?\s*", "", caption, flags=re.IGNORECASE)
    if not caption:
        raise Unusable("the server's answer is empty")
    if len(caption) > LONGEST_CAPTION:
        raise Unusable(f"the server's answer has over {LONGEST_CAPTION} letters")
    if MARKUP.search(caption):
        raise Unusable(f"the server's answer is a page{words_of(caption)}")
    if REFUSALS.match(caption):
        raise Unusable(f"the model refuses{words_of(caption)}")
    words = re.findall(r"\w+", caption.lower())
    letters = sum(letter.isalpha() or letter.isspace() for letter in caption)
    if len(words) < 3 or letters < 0.6 * len(caption) or max(map(len, words)) > 60:
        raise Unusable(f"the server's answer is no sentence{words_of(caption)}")
    if len(words) > 20 and len(set(words)) < 0.2 * len(words):
        raise Unusable(f"the server's answer repeats itself{words_of(caption)}")
    return caption


def words_of(text: str) -> str:
    """The beginning of an answer, to be shown in a message."""
    answer = read_object_or_nothing(text)
    error = answer.get("error")
    message = error.get("message") if isinstance(error, dict) else error
    start = one_line(message if isinstance(message, str) else text)[:120]
    return f": {start}" if start else ""
