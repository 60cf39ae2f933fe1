"""Which workers are alive, ready, and how fast they are."""

import json
from typing import Any

from linnet.serve.database import Database, surely

LATELY = 10.0  # seconds since a worker's last heartbeat, for which it counts as there


class Heartbeats(Database):
    """What workers report of themselves."""

    @surely
    def beat(
        self,
        worker: str,
        *,
        ready: bool,
        memory: int,
        reserved: int | None = None,
        busy: float | None = None,
    ) -> None:
        """The worker is alive; `ready` when its model is loaded; `memory` in bytes, and `reserved` of its card, if it
        has one; `busy`: when it last got on with what it is at."""
        with self._writing() as db:
            db.execute(
                "INSERT INTO workers (name, beat, ready, memory, reserved, busy) VALUES (?, ?, ?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET beat = excluded.beat, ready = excluded.ready, "
                "memory = excluded.memory, reserved = excluded.reserved, busy = excluded.busy",
                (worker, self.clock.steady(), int(ready), memory, reserved, busy),
            )

    @surely
    def last_words(self, worker: str, words: str) -> None:
        """What a worker dies of, for whoever looks after it."""
        with self._writing() as db:
            db.execute(
                "INSERT INTO workers (name, beat, ready, words) VALUES (?, ?, 0, ?) "
                "ON CONFLICT DO UPDATE SET words = excluded.words",
                (worker, self.clock.steady(), words),
            )

    def workers(self) -> dict[str, dict[str, Any]]:
        """Last beat, readiness, memory, last progress and last words of each, by name."""
        return {row["name"]: dict(row) for row in self._rows("SELECT * FROM workers")}

    def ready_workers(self) -> int:
        """Those whose model is loaded and who sent a heartbeat lately."""
        since = self.clock.steady() - LATELY
        return self._rows("SELECT COUNT(*) AS count FROM workers WHERE ready AND beat > ?", since)[0]["count"]

    def steps_per_second(self) -> dict[str, float]:
        """Of the jobs that are denoised now, by model."""
        rows = self._rows(
            "SELECT request, done / (reported - stage_started) AS pace FROM jobs "
            "WHERE status = 'in_progress' AND stage = 'denoise' AND done > 0 AND reported > stage_started"
        )
        paces: dict[str, float] = {}
        for row in rows:
            model = json.loads(row["request"])["model"]
            paces[model] = paces.get(model, 0.0) + row["pace"]
        return paces
