"""Tells one address that a job has ended, signed, until it is heard.

The form is that of Standard Webhooks (standardwebhooks.com), which the clients of the Videos format can check:
`webhook-signature` is the base64 of HMAC-SHA256 over "ID.TIMESTAMP.BODY". The address is the operator's own, never a
client's. What it is told is which job ended and how; the rest it may ask for.
"""

import base64
import hashlib
import hmac
import json
import logging
import secrets
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from linnet.errors import InvalidInput
from linnet.filesystem import complete
from linnet.serve.clips import log_error
from linnet.serve.jobs import Job
from linnet.serve.queue import Queue

log = logging.getLogger("linnet.serve")

PREFIX = "whsec_"
SECRET_FILE = "webhook.secret"
LOOK = 0.5  # seconds between two looks for what is to be told
PATIENCE = 10.0  # seconds for an answer
PAUSES = (5, 30, 120, 600, 3600, 7200, 14400, 28800)  # seconds until the next try; then it is given up


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """Where to, and the secret of both sides."""

    url: str
    secret: str


def open_webhook(data: Path, url: str) -> Webhook:
    """With the secret of this folder, made when it is first asked for."""
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise InvalidInput("webhook", url, "is not an address", "give one such as https://example.org/hook")
    return Webhook(url=url, secret=secret_in(data / SECRET_FILE))


def secret_in(path: Path) -> str:
    """The file's, which appears when it is whole; InvalidInput for a file that holds none."""
    if not path.exists():
        with complete(path, field="webhook") as part:
            part.chmod(0o600)
            part.write_text(PREFIX + base64.b64encode(secrets.token_bytes(32)).decode() + "\n")
    secret = path.read_text().strip()
    with suppress(ValueError):
        if base64.b64decode(secret.removeprefix(PREFIX), validate=True):
            return secret
    raise InvalidInput("webhook", path, "holds no secret", "remove it, and the next start makes a new one")


class Straight(HTTPRedirectHandler):
    """Follows nobody elsewhere."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        return None


class Teller(threading.Thread):
    """Tells what is to be told, now and then again, and the oldest first."""

    def __init__(self, webhook: Webhook, queue: Queue) -> None:
        super().__init__(daemon=True)
        self.webhook, self.queue = webhook, queue
        queue.resume_notices(PAUSES[-1])
        self.leave = threading.Event()

    def run(self) -> None:
        while not self.leave.wait(LOOK):
            try:
                for job, tries in self.queue.due_notices():
                    self.tell(job, tries)
            except Exception as error:
                log_error(log, "could not tell of a job's end", error)

    def tell(self, job: Job, tries: int) -> None:
        body = json.dumps(
            {
                "id": f"evt_{job.id}",
                "object": "event",
                "type": f"video.{job.status}",
                "created_at": int(job.ended or 0),
                "data": {"id": job.id},
            }
        ).encode()
        request = Request(self.webhook.url, body, headers=headers(self.webhook, f"evt_{job.id}", body))
        try:
            build_opener(Straight).open(request, timeout=PATIENCE).close()
        except (OSError, ValueError, HTTPException) as error:  # another answer than 2xx, or no HTTP at all
            if tries < len(PAUSES):
                self.queue.tell_later(job.id, PAUSES[tries])
                return
            log.warning("gave up telling of %s: %s", job.id, error)
        self.queue.told(job.id)


def headers(webhook: Webhook, name: str, body: bytes) -> dict[str, str]:
    """What lets the other side know that it is us, that it is all, and that it is new."""
    stamp = str(int(time.time()))
    key = base64.b64decode(webhook.secret.removeprefix(PREFIX))
    signed = hmac.new(key, f"{name}.{stamp}.".encode() + body, hashlib.sha256).digest()
    return {
        "Content-Type": "application/json",
        "webhook-id": name,
        "webhook-timestamp": stamp,
        "webhook-signature": f"v1,{base64.b64encode(signed).decode()}",
    }
