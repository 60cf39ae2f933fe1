"""What Prometheus is told."""

from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from linnet.serve.connections import Connections
from linnet.serve.queue import Queue


class Metrics:
    """Everything that the queue and the connections count, at the time they are asked."""

    def __init__(self, queue: Queue, connections: Connections) -> None:
        self.queue, self.connections = queue, connections

    def collect(self) -> Any:
        facts = self.queue.statistics()
        waiting = GaugeMetricFamily("linnet_jobs", "Jobs by status.", labels=["status"])
        for status in ("queued", "in_progress", "completed", "failed"):
            waiting.add_metric([status], facts["jobs"].get(status, 0))
        yield waiting
        yield GaugeMetricFamily(
            "linnet_queue_age_seconds", "Age of the oldest job that waits.", value=facts["oldest_seconds"]
        )
        names = {
            "jobs_accepted": ("Jobs accepted.", "model"),
            "jobs_completed": ("Jobs completed.", "model"),
            "jobs_failed": ("Jobs failed, by kind.", "kind"),
            "steps": ("Denoising steps of completed jobs.", "model"),
            "stage_seconds": ("Seconds that completed jobs spent, by stage.", "stage"),
            "worker_restarts": ("Workers started again, by reason.", "reason"),
        }
        for name, (words, label) in names.items():
            sums = CounterMetricFamily(f"linnet_{name}", words, labels=[label])
            for (counter, value), amount in facts["sums"].items():
                if counter == name:
                    sums.add_metric([value], amount)
            yield sums
        pace = GaugeMetricFamily(
            "linnet_steps_per_second", "Denoising steps, of jobs that run.", labels=["model"]
        )
        for model, steps in self.queue.steps_per_second().items():
            pace.add_metric([model], steps)
        yield pace
        memory = GaugeMetricFamily("linnet_worker_memory_bytes", "Resident memory.", labels=["worker"])
        card = GaugeMetricFamily(
            "linnet_worker_card_bytes", "Memory of its card that it holds.", labels=["worker"]
        )
        for index, worker in enumerate(self.queue.workers().values()):
            memory.add_metric([str(index)], worker["memory"] or 0)
            if worker["reserved"] is not None:
                card.add_metric([str(index)], worker["reserved"])
        yield memory
        yield card
        yield GaugeMetricFamily(
            "linnet_connections", "Connections of clients.", value=len(self.connections.open)
        )
        closed = CounterMetricFamily(
            "linnet_connections_closed",
            "Connections that the server closed: to make room, or since the client was late with it.",
            labels=["cause"],
        )
        for cause, count in sorted(self.connections.closed.items()):
            closed.add_metric([cause], count)
        yield closed
