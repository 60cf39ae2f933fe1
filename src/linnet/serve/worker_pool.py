"""Who renders: a process for each device of this machine, or the nodes of a cluster."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from linnet.errors import InvalidInput
from linnet.runtime.device import resolve_device
from linnet.runtime.machine import budget_of
from linnet.serve.queue import Queue
from linnet.serve.render import RenderSettings
from linnet.serve.supervisor import Member, Patience, ProcessSupervisor


@dataclass(frozen=True, kw_only=True)
class WorkerPool:
    """`devices`: a worker each, here. `ray`: the address of a cluster, which does it instead. `vram`, `ram`,
    `gpus`, `loras` and `watched` as in RenderSettings, for each worker."""

    model: str
    weights: Path | None = None
    devices: Sequence[str] = ("auto",)
    dtype: str = "auto"
    threads: int | None = None
    vram: int | None = None
    ram: int | None = None
    gpus: int = 1
    loras: Path | None = None
    ray: str | None = None
    watched: bool = True
    patience: Patience = field(default_factory=Patience)

    def members(self, data: Path, queue: Queue) -> Sequence[Member]:
        """Not started yet. InvalidInput if there is no cluster at the address, or no ray to speak to it."""
        settings = RenderSettings(
            model=self.model,
            weights=str(self.weights.absolute()) if self.weights else None,
            dtype=self.dtype,
            threads=self.threads,
            vram=self.vram,
            ram=self.ram,
            gpus=self.gpus,
            loras=str(self.loras.absolute()) if self.loras else None,
            watched=self.watched,
        )
        if self.ray is None:
            return [
                ProcessSupervisor(replace(settings, device=device), data, queue, self.patience)
                for device in self.devices
            ]
        if len(self.devices) > 1:
            remedy = "leave --device out, or say cpu for a cluster whose GPUs are not to be used"
            raise InvalidInput("device", " ".join(self.devices), "cannot be chosen on a cluster", remedy)
        try:
            from linnet.serve.ray import Cluster
        except ModuleNotFoundError as error:
            remedy = "run `pip install 'linnet[cluster]'`"
            raise InvalidInput("ray", self.ray, f"{error.name} is not installed", remedy) from None
        return [Cluster(self.ray, replace(settings, device=self.devices[0]), data, queue, self.patience)]

    def check_budget(self) -> None:
        """InvalidInput for a card's budget where the device is none; what nodes have is theirs to say."""
        if self.ray is None and self.vram is not None:
            for device in self.devices:
                budget_of(resolve_device(device), vram=self.vram)
        if self.gpus != 1:
            self.check_gpus()

    def check_gpus(self) -> None:
        """InvalidInput where there are not so many, or where two workers would share one."""
        if self.ray is not None:
            problem, remedy = "cannot be chosen on a cluster", "leave it out: each GPU has a worker"
            raise InvalidInput("gpus_per_worker", self.gpus, problem, remedy)
        from linnet.multi_gpu import check_gpus  # the pipeline, which the server itself does without

        taken: set[str] = set()
        for device in self.devices:
            cards = check_gpus(self.gpus, device, field="gpus_per_worker")
            if twice := taken.intersection(cards) - {"cpu"}:
                problem = f"would have two workers on {min(twice)}"
                remedy = f"name devices that are {self.gpus} apart, such as cuda:0 and cuda:{self.gpus}"
                raise InvalidInput("gpus_per_worker", self.gpus, problem, remedy)
            taken.update(cards)
