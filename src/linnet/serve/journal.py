"""A line in the service's log for each job that ends, wherever it was made."""

import json
import logging
import threading
import time

from linnet.serve.clips import log_error
from linnet.serve.jobs import Job
from linnet.serve.queue import Queue

log = logging.getLogger("linnet.serve")

LOOK = 0.5  # seconds between two looks for jobs that ended


class Journal(threading.Thread):
    """Writes of jobs that end from now on; what was asked is written only where `prompts` says so."""

    def __init__(self, queue: Queue, *, prompts: bool = False) -> None:
        super().__init__(daemon=True)
        self.queue, self.prompts = queue, prompts
        self.since, self.one_at_a_time = queue.endings(), threading.Lock()

    def run(self) -> None:
        while True:
            try:
                self.look()
            except Exception as error:  # the queue cannot be read just now
                log_error(log, "could not look for jobs that ended", error)
            time.sleep(LOOK)

    def look(self) -> None:
        """Also for who is about to delete one that just ended, or to end the service."""
        with self.one_at_a_time:
            for job in self.queue.ended_after(self.since):
                self.since = job.ending or self.since
                log.info("%s", line_of(job, prompts=self.prompts))


def line_of(job: Job, *, prompts: bool) -> str:
    """Its end in one line of NAME=VALUE; `-` stands for no key, and for no time if it never began."""
    took = f"{job.reported - job.claimed:.1f}" if job.reported and job.claimed else "-"
    facts = {
        "job": job.id,
        "key": job.owner or "-",
        "model": job.request.model,
        "seconds": took,
        "status": job.status,
        "code": job.code or "-",
    }
    if prompts:
        facts["prompt"] = json.dumps(job.request.prompt)  # on one line, whatever it holds
    return " ".join(f"{name}={value}" for name, value in facts.items())
