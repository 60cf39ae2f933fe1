"""Workers on the nodes of a Ray cluster, in front of which stand the same queue and the same API.

A node has an actor for each of its GPUs; where no node has one, an actor on the processor. Nodes share no file system:
what an actor makes comes back through Ray and is put on the disk here. A node that joins gets work, and one that goes
gives its job back. This machine is a node, too, which may be one without work: `ray start --head --num-cpus 0`.
"""

import logging
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from linnet import __version__
from linnet.errors import InvalidInput
from linnet.request import Request
from linnet.runtime.cluster import connect
from linnet.serve.clips import file_of, files_bytes, forget, put, remove_files, told
from linnet.serve.clock import Awake
from linnet.serve.jobs import InputReference, Job, NotThis
from linnet.serve.queue import Queue
from linnet.serve.render import Renderer, RenderSettings
from linnet.serve.supervisor import LOOK, Member, Patience, Signs, Supervisor
from linnet.serve.worker import BEAT, IDLE, cause, reserved_bytes, resident_bytes

log = logging.getLogger("linnet.serve")

CENSUS = 2.0  # seconds between two looks at which nodes there are


@dataclass(frozen=True, kw_only=True)
class Look:
    """What an actor is at. `preview` is there if it is newer than the one that was seen last."""

    memory: int
    reserved: int | None = None
    number: int = 0  # of this report; the first is 1
    stage: str = ""
    done: int = 0
    total: int = 1
    pictured: int = 0  # the report that brought the newest preview
    preview: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class Made:
    """A clip's files by variant and seconds by stage; or, with a code, why there is none."""

    files: dict[str, bytes] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    code: str = ""
    words: str = ""


class Stopped(Exception):
    """Nobody wants it any more."""


class Hand:
    """The actor. It answers `look` and `stop` in other threads than the one that renders."""

    def __init__(self, settings: RenderSettings) -> None:
        self.renderer = Renderer(settings)
        self.stopped = False
        self.now = Look(memory=0)

    def warm(self) -> str:
        """Loads the model; the version of linnet on this node."""
        self.renderer.warm()
        return __version__

    def look(self, seen: int) -> Look:
        now = self.now
        preview = now.preview if now.pictured > seen else None
        return replace(now, memory=resident_bytes(), reserved=reserved_bytes(), preview=preview)

    def stop(self) -> None:
        self.stopped = True

    def render(self, record: dict[str, Any], given: InputReference | None) -> Made:
        self.stopped, self.now = False, Look(memory=0)
        request = Request.from_json(record)
        with tempfile.TemporaryDirectory(prefix="linnet-") as folder:
            path = Path(folder) / "clip.mp4"
            try:
                made, seconds = self.renderer.make(request, path, self.report, given)
                return Made(files={"video": path.read_bytes(), **made}, seconds=seconds)
            except Stopped:
                return Made()
            except InvalidInput as error:
                code, words = told(error)
                return Made(code=code, words=words)

    def report(self, stage: str, done: int, total: int, image: bytes | None) -> None:
        if self.stopped:
            raise Stopped
        number, last = self.now.number + 1, self.now
        picture = (number, image) if image else (last.pictured, last.preview)
        self.now = Look(memory=0, number=number, stage=stage, done=done, total=total,
                        pictured=picture[0], preview=picture[1])  # fmt: skip


@dataclass(frozen=True)
class Slot:
    """A place for an actor: the `index`th GPU of a node, or its processor."""

    node: str
    index: int
    gpu: bool


class ActorSupervisor(Supervisor):
    """Of an actor; it claims the actor's jobs, and speaks for it to the queue."""

    def __init__(
        self, slot: Slot, settings: RenderSettings, data: Path, queue: Queue, patience: Patience
    ) -> None:
        super().__init__(data, queue, patience)
        self.runs_on, self.slot, self.settings = f"node {slot.node[:8]}", slot, settings

    def supervise(self, name: str) -> str | None:
        hand: Any = None
        try:
            here = NodeAffinitySchedulingStrategy(node_id=self.slot.node, soft=False)
            hand = (
                ray.remote(Hand)
                .options(num_gpus=int(self.slot.gpu), num_cpus=1, max_concurrency=4, scheduling_strategy=here)
                .remote(self.settings)
            )
            return self.work(hand, name)
        except RayTaskError as error:
            return f"failed, {cause(error.cause)}"
        except RayError as error:
            return f"is gone with its process or its node ({type(error).__name__})"
        finally:
            if hand is not None:
                ray.kill(hand)

    def work(self, hand: Any, name: str) -> str | None:
        """Keep it at work; what is wrong with it, or None if it was asked to go."""
        task, job = hand.warm.remote(), None
        awake = Awake(self.queue.clock)
        signs, stopping, last = Signs(self.patience, awake), None, Look(memory=0)
        ready, beat = False, 0.0
        answered, busy = None, awake()
        while True:
            look = hand.look.remote(last.pictured)
            while not ray.wait([look], timeout=LOOK)[0]:
                if (trouble := signs.trouble(answered, busy if task is not None else None)) is not None:
                    return trouble
            now: Look = ray.get(look)
            answered = awake()
            if now.number > last.number:
                busy = awake()
            if (trouble := signs.trouble(answered, busy if task is not None else None)) is not None:
                return trouble
            if answered - beat > BEAT:
                beat = answered
                self.queue.beat(name, ready=ready, memory=now.memory, reserved=now.reserved)
            if job is not None and now.number > last.number and not self.tell(job, now):
                hand.stop.remote()
                job = None
            last = now
            if task is not None and ray.wait([task], timeout=LOOK)[0]:
                result: Any = ray.get(task)
                task = None
                if isinstance(result, str):
                    ready = True
                    if result != __version__:
                        return f"has linnet {result}, and this is {__version__}"
                elif job is not None:
                    self.deliver(job, result)
                job = None
            if self.leave.is_set():
                stopping = awake() if stopping is None else stopping
                if task is None or self.hurry.is_set() or awake() - stopping > self.patience.grace:
                    return None
            elif task is None:
                job, last = self.queue.claim(name), Look(memory=0)
                if job is None:
                    time.sleep(IDLE)
                else:
                    busy = awake()
                    task = hand.render.remote(job.request.to_json(), self.queue.given(job.id))

    def tell(self, job: Job, now: Look) -> bool:
        """Whether anybody still wants to know."""
        try:
            self.queue.report(job, now.stage, now.done, now.total, now.preview)
        except NotThis:
            return False
        return True

    def deliver(self, job: Job, made: Made) -> None:
        """Put a job's files on the disk, then say so."""
        try:
            if made.code:
                self.queue.fail(job, made.code, made.words)
                return
            for variant, content in made.files.items():
                put(file_of(self.data, job.id, variant), content)
            self.queue.complete(job, size=files_bytes(self.data, job.id), seconds=made.seconds)
        except NotThis:
            forget(self.data, self.queue, job.id)
        except Exception as error:
            code, words = told(error)
            remove_files(self.data, job.id)
            if not code:
                raise
            self.queue.fail(job, code, words)


class Cluster(Member):
    """Keeps an actor at work in every slot of the nodes that there are."""

    def __init__(
        self, address: str, settings: RenderSettings, data: Path, queue: Queue, patience: Patience
    ) -> None:
        super().__init__(data, queue, patience)
        self.settings = settings
        # Before whoever starts us says what signals mean: Ray says it, too.
        connect(address)

    def run(self) -> None:
        supervisors: dict[Slot, ActorSupervisor] = {}
        while not self.leave.is_set():
            try:
                slots = slots_of(ray.nodes(), gpus=self.settings.device != "cpu")
            except Exception:
                log.exception("the cluster does not say which nodes it has")
                slots = set(supervisors)
            for slot in supervisors.keys() - slots:
                supervisors.pop(slot).leave.set()
            for slot in slots - supervisors.keys():
                supervisors[slot] = ActorSupervisor(slot, self.settings, self.data, self.queue, self.patience)
                supervisors[slot].start()
            self.leave.wait(CENSUS)
        for supervisor in supervisors.values():
            supervisor.leave.set()
        while any(supervisor.is_alive() for supervisor in supervisors.values()):
            if self.hurry.is_set():
                for supervisor in supervisors.values():
                    supervisor.hurry.set()
            time.sleep(LOOK)
        ray.shutdown()


def slots_of(nodes: list[dict[str, Any]], *, gpus: bool) -> set[Slot]:
    """Every GPU of every node that is alive; without any, every node that has a processor to give."""
    alive = [(node["NodeID"], node["Resources"]) for node in nodes if node["Alive"]]
    cards = {Slot(name, index, True) for name, has in alive for index in range(int(has.get("GPU", 0)))}
    return (cards if gpus else set()) or {
        Slot(name, 0, False) for name, has in alive if has.get("CPU", 0) >= 1
    }
