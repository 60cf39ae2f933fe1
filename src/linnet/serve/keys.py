"""Who may ask: keys, and sessions that are begun with one. Of both only a hash is kept."""

import hashlib
import hmac
import secrets

from linnet.serve.queue import Queue

PREFIX = "linnet_"


def make_key(queue: Queue, name: str) -> tuple[str, str]:
    """A new key's id and the key itself, which is nowhere else from now on."""
    identity, key = secrets.token_hex(4), PREFIX + secrets.token_urlsafe(32)
    queue.add_key(identity, name, digest(key))
    return identity, key


def digest(key: str) -> bytes:
    """A plain hash will do: a key is 256 random bits, which nobody guesses, however fast the hash."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def find_owner(queue: Queue, key: str) -> str | None:
    """The id of the key, None if it is not one or no longer; the time it takes does not tell how close it was."""
    given, found = digest(key), None
    for known in queue.all_keys():
        same = hmac.compare_digest(given, known["hash"])
        if same and known["revoked"] is None:
            found = known["id"]
    return found


def make_session(queue: Queue, key: str) -> str | None:
    """The token of a new session of whoever has the key, None if it is not one or no longer. Only a hash is kept."""
    if (owner := find_owner(queue, key)) is None:
        return None
    token = secrets.token_urlsafe(32)
    queue.add_session(digest(token), owner)
    return token


def find_session(queue: Queue, token: str) -> str | None:
    """The id of the key with which the session was begun, None if it is over, or the key is revoked."""
    return queue.session_owner(digest(token))


def end_session(queue: Queue, token: str) -> None:
    queue.end_session(digest(token))
