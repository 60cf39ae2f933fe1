"""Access: keys, and sessions that begin with a key. Only a hash of either is stored."""

import hashlib
import hmac
import secrets
from typing import Any

from linnet.serve.database import Database, surely

PREFIX = "linnet_"
SESSIONS = 50  # of one key
SESSION_SECONDS = 30 * 86400.0  # that a session lasts


class KeyTable(Database):
    """The keys and their sessions, by their hashes."""

    def add_key(self, key: str, name: str, digest: bytes) -> None:
        with self._writing() as db:
            db.execute("INSERT INTO keys VALUES (?, ?, ?, ?, NULL)", (key, name, digest, self.clock.wall()))

    def restore_key(self, *key: Any) -> None:
        """Id, name, hash, when it was made and when revoked, as another database had them."""
        with self._writing() as db:
            db.execute("INSERT OR IGNORE INTO keys VALUES (?, ?, ?, ?, ?)", key)

    def keyless(self) -> int:
        """How many jobs were made without a key."""
        return self._rows("SELECT COUNT(*) AS count FROM jobs WHERE owner = ''")[0]["count"]

    def adopt(self, key: str, *, of: str = "") -> int:
        """Give the jobs `of` another key, or those made without one, to this key, a new one; how many."""
        with self._writing() as db:
            db.execute("UPDATE OR REPLACE repeats SET owner = ? WHERE owner = ?", (key, of))
            return db.execute("UPDATE jobs SET owner = ? WHERE owner = ?", (key, of)).rowcount

    def add_session(self, digest: bytes, key: str) -> None:
        """Begun with that key. A key has the SESSIONS newest ones."""
        with self._writing() as db:
            db.execute("INSERT INTO sessions VALUES (?, ?, ?)", (digest, key, self.clock.wall()))
            db.execute(
                "DELETE FROM sessions WHERE key = ? AND rowid <= "
                "(SELECT rowid FROM sessions WHERE key = ? ORDER BY rowid DESC LIMIT 1 OFFSET ?)",
                (key, key, SESSIONS),
            )

    def session_owner(self, digest: bytes) -> str | None:
        """The key that it was begun with, while that is valid and the session not over."""
        rows = self._rows(
            "SELECT key FROM sessions JOIN keys ON keys.id = key "
            "WHERE sessions.hash = ? AND revoked IS NULL AND begun > ?",
            *(digest, self.clock.wall() - SESSION_SECONDS),
        )
        return rows[0]["key"] if rows else None

    def end_session(self, digest: bytes) -> None:
        with self._writing() as db:
            db.execute("DELETE FROM sessions WHERE hash = ?", (digest,))

    def all_keys(self) -> list[dict[str, Any]]:
        """All that were ever made; `revoked` is a time or None."""
        return [dict(row) for row in self._rows("SELECT * FROM keys ORDER BY created")]

    @surely
    def revoke_key(self, key: str) -> bool:
        with self._writing() as db:
            query = "UPDATE keys SET revoked = ? WHERE id = ? AND revoked IS NULL"
            return bool(db.execute(query, (self.clock.wall(), key)).rowcount)


def make_key(table: KeyTable, name: str) -> tuple[str, str]:
    """A new key's id and the key itself, which is nowhere else from now on."""
    identity, key = secrets.token_hex(4), PREFIX + secrets.token_urlsafe(32)
    table.add_key(identity, name, digest(key))
    return identity, key


def digest(key: str) -> bytes:
    """A plain hash will do: a key is 256 random bits, which nobody guesses, however fast the hash."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def find_owner(table: KeyTable, key: str) -> str | None:
    """The id of the key, None if it is not one or no longer; the time it takes does not tell how close it was."""
    given, owner = digest(key), None
    for known in table.all_keys():
        same = hmac.compare_digest(given, known["hash"])
        if same and known["revoked"] is None:
            owner = known["id"]
    return owner


def make_session(table: KeyTable, key: str) -> str | None:
    """The token of a new session of whoever has the key, None if it is not one or no longer. Only a hash is kept."""
    if (owner := find_owner(table, key)) is None:
        return None
    token = secrets.token_urlsafe(32)
    table.add_session(digest(token), owner)
    return token


def find_session(table: KeyTable, token: str) -> str | None:
    """The id of the key with which the session was begun, None if it is over, or the key is revoked."""
    return table.session_owner(digest(token))


def end_session(table: KeyTable, token: str) -> None:
    table.end_session(digest(token))
