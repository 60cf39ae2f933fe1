"""A model's parts: read from disk when they are first needed, placed as a plan says, dropped when memory runs out.

Axes: M the text encoder's width.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, Self, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from linnet.catalog import ModelSpec
from linnet.errors import DeviceLost, InvalidInput, one_line
from linnet.models.latents import LatentSpace, linum_v2_latents
from linnet.models.tae import TAE, TAEConfig
from linnet.models.text import Encoded, Tokenizer
from linnet.models.transformer import Transformer
from linnet.models.vae import VAE, VAEConfig
from linnet.plan.budget import Budget
from linnet.plan.candidates import first_fitting, smaller
from linnet.plan.execution import NOTHING_FIXED, ExecutionConfig, FixedExecution
from linnet.plan.explanations import Stage
from linnet.plan.machine import Machine
from linnet.plan.plan import Plan
from linnet.plan.predict import predict
from linnet.plan.workload import SizedModel
from linnet.progress import Progress, Watch, ignore
from linnet.request import Request
from linnet.runtime.compile import check_compiler, compile_blocks
from linnet.runtime.device import check_format
from linnet.runtime.machine import occupy, resolve_machine, with_free_memory
from linnet.runtime.recover import is_gone, let_go, out_of_memory
from linnet.runtime.stream import BlockStream, stream_into, transformer_of
from linnet.runtime.text import TextStates
from linnet.weights.config import config_as
from linnet.weights.files import Header
from linnet.weights.load import (
    fill,
    fingerprint,
    load_into,
    matched,
    read_latent_scale,
    stored_format,
)
from linnet.weights.names import TRANSFORMER_PREFIX
from linnet.weights.store import ModelFiles

T = TypeVar("T")


class Parts:
    """Tokenizer, text encoder, transformer and autoencoder of one model, on one device.

    A large text encoder streams through memory unless there is plenty. What it says of a prompt is kept, also on disk
    if `cache` allows, so a prompt is encoded once.
    """

    def __init__(
        self,
        spec: ModelSpec,
        files: ModelFiles,
        machine: Machine,
        *,
        cache: bool = True,
        execution: ExecutionConfig | None = None,
    ) -> None:
        self.spec, self.files, self.machine = spec, files, machine
        self.device, self.dtype = torch.device(machine.device), getattr(torch, machine.dtype)
        self.execution = execution or ExecutionConfig()
        self.compiled, self.attention, self._attention_asked = False, "", ""
        self._asked = execution.fixed() if execution else NOTHING_FIXED
        self._following: Plan | None = (
            None  # what runs: the plan that was given, or less where that was too much
        )
        self._given: Plan | None = None
        self._reduced: FixedExecution | None = None  # by which it goes on since memory ran out
        self._shrunk: Stage | None = None
        self._compiled_for: set[tuple[object, ...]] = set()  # the first step of each shape compiles, too
        self.profile: Mapping[str, Any] | None = (
            None  # what the clips say of the profile that they are made with
        )
        self.told: Watch = ignore  # hears of weights that are read, whoever first needs them
        self.tokenizer = Tokenizer.open(files.tokenizer)
        self.text = TextStates(
            files.text_encoder,
            device=self.device,
            dtype=self.dtype,
            cache=cache,
            format=self.execution.text_format,
            loading=partial(self._reading, "text encoder"),
        )
        self._transformer: Transformer | None = None
        self._blocks: BlockStream | None = None
        self._autoencoder: VAE | TAE | None = None
        self._space: LatentSpace | None = None
        self._hash = ""

    @classmethod
    def open(
        cls,
        spec: ModelSpec,
        files: ModelFiles,
        machine: Machine | None = None,
        *,
        cache: bool = True,
        execution: ExecutionConfig | None = None,
        compiled: bool = False,
        attention: str = "",
    ) -> Self:
        """Read the tokenizer and the headers of the weights; `machine` None: the CPU, in float32.

        `execution`: how to run, which is otherwise planned. `compiled`: fuse the transformer's
        blocks when they first run. `attention`: the way to attend that an earlier clip tells, otherwise the fastest.
        WeightsError if the files do not hold exactly this model, known before a weight is read.
        """
        machine = machine or resolve_machine("cpu", dtype="float32")
        occupy(machine)
        pipeline = cls(spec, files, machine, cache=cache, execution=execution)
        if compiled:
            check_compiler(machine.device)
            pipeline.compiled = True
        pipeline._attention_asked = attention
        for headers in (pipeline.text.matched[1], pipeline._matched_transformer()[1]):
            check_format(stored_format(headers), pipeline.device)
        for asked in (pipeline.execution.transformer_format, pipeline.execution.text_format):
            check_format(asked, pipeline.device)
        matched(pipeline._autoencoder_model, files.autoencoder)
        return pipeline

    @property
    def model_hash(self) -> str:
        """A fingerprint of all weight files."""
        self._hash = self._hash or fingerprint(self.files.weights)
        return self._hash

    def _reading(self, part: str, done: int, total: int) -> None:
        self.told(Progress("load", done, total, part=part))

    # --- text ---------------------------------------------------------------------------------------------------------

    def encode(self, prompt: str) -> Encoded:
        """The prompt's tokens as the model will get them, and the words that were cut off."""
        return self.tokenizer.encode(prompt, self.spec.max_prompt_tokens)

    def text_states(self, *prompts: str, watch: Watch = ignore) -> list[Float[Tensor, "_ M"]]:
        """The text encoder's states of the real tokens of each prompt."""
        tokens = [self.encode(prompt).ids for prompt in prompts]
        return self.text.of(tokens, lambda done, total: watch(Progress("text", done, total)))

    # --- transformer --------------------------------------------------------------------------------------------------

    def _matched_transformer(self) -> tuple[Transformer, list[Header]]:
        path = self.files.transformer
        return matched(
            lambda: transformer_of(path),
            path,
            prefix=TRANSFORMER_PREFIX,
            quantise=self.execution.transformer_format,
        )

    @property
    def transformer(self) -> Transformer:
        """Where `execution.resident_blocks` is set, some of its blocks are elsewhere: `_blocks` brings them."""
        if self._transformer is None:
            watch = partial(self._reading, "transformer")
            watch(0, 1)
            model, headers = self._matched_transformer()
            if self.execution.resident_blocks is None:
                fill(
                    model,
                    headers,
                    device=self.device,
                    dtype=self.dtype,
                    prefix=TRANSFORMER_PREFIX,
                    watch=watch,
                )
            else:
                self._blocks = stream_into(
                    model,
                    headers,
                    device=self.device,
                    dtype=self.dtype,
                    resident_blocks=self.execution.resident_blocks,
                    blocks_from=self.execution.blocks_from,
                    prefix=TRANSFORMER_PREFIX,
                    watch=watch,
                )
            if self.compiled:
                compile_blocks(self._blocks.real if self._blocks else model.blocks)
            self._transformer = model.eval()
        return self._transformer

    # --- autoencoder --------------------------------------------------------------------------------------------------

    def _autoencoder_model(self) -> VAE | TAE:
        file = self.files.autoencoder
        if self.spec.autoencoder == "wan":
            return VAE(config_as(VAEConfig, file) or VAEConfig())
        return TAE(config_as(TAEConfig, file) or TAEConfig())

    @property
    def autoencoder(self) -> VAE | TAE:
        if self._autoencoder is None:
            self._reading("autoencoder", 0, 1)
            dtype = getattr(torch, self.execution.autoencoder_dtype)
            model = load_into(
                self._autoencoder_model, self.files.autoencoder, device=self.device, dtype=dtype
            )
            self._autoencoder = model.eval()
            self._reading("autoencoder", 1, 1)
        return self._autoencoder

    @property
    def latent_space(self) -> LatentSpace:
        """The transformer's own, as its file says, else Linum v2's."""
        if self._space is None:
            stored = read_latent_scale(self.files.transformer)
            self._space = LatentSpace(*stored) if stored else linum_v2_latents()
        return self._space

    # --- where everything goes ----------------------------------------------------------------------------------------

    def settled(self, request: Request) -> Request:
        """The request as a clip records it, with nothing left for the device to decide."""
        return self.machine.settle(replace(request, dtype=self.machine.dtype))

    @cached_property
    def sized(self) -> SizedModel:
        """What decides how much memory the model takes, by the headers of its files."""
        return SizedModel.of(self.spec, self.files)

    def plan(self, request: Request, *, clips: int = 1, encoded_frames: int = 0) -> Plan:
        """How the request will run; InvalidInput if it does not fit. `clips` are made in one batch, and so many
        `encoded_frames` are encoded first.

        Under a budget each request has the fastest plan that keeps it. Without one, what is loaded stays as it is: of
        the memory that is free it is no part.
        """
        request = self.settled(request)
        if self._transformer is not None and not self.machine.budget.asked:
            return self._plan_as_loaded(request, clips, encoded_frames)
        machine = with_free_memory(self.machine)
        if self._reduced:
            workload = machine.workload(self.sized, request, clips=clips, encoded_frames=encoded_frames)
            if found := first_fitting(workload, machine.costs(workload), self._reduced):
                return found
        return machine.plan(
            self.sized, request, clips=clips, encoded_frames=encoded_frames, fixed=self._asked
        )

    def _plan_as_loaded(self, request: Request, clips: int, encoded_frames: int) -> Plan:
        budget = self._following.budget if self._following else Budget()
        machine = replace(self.machine, budget=budget)
        workload = machine.workload(self.sized, request, clips=clips, encoded_frames=encoded_frames)
        return predict(workload, self.execution, text_resident=self.text.held, costs=machine.costs(workload))

    def follow(self, plan: Plan) -> None:
        """Run by this plan from now on; what is loaded is dropped where it asks for another way.

        Given again, it goes on by what became of it: if memory ran out, by a smaller one.
        """
        if plan is self._given:
            return
        self._given, self._shrunk = plan, None
        if self._reduced:
            plan = first_fitting(plan.workload, fixed=self._reduced) or plan
        self._run_by(plan)

    def _run_by(self, plan: Plan) -> None:
        if plan.execution != self.execution:
            self.unload()
        if not plan.text_resident:
            self.text.let_go()
        self._following, self.execution, self.text.held = plan, plan.execution, plan.text_resident

    def choices(self) -> dict[str, Any]:
        """What was decided here and changes a clip's bits, if only the last ones."""
        execution = self.execution.record()
        return {
            "device": self.device.type,
            "threads": torch.get_num_threads(),
            "attention": self.attention,
            **({"compiled": True} if self.compiled else {}),
            **({"profile": dict(self.profile)} if self.profile else {}),
            **({"knobs": execution} if execution else {}),
            **({"shrunk": self._shrunk} if self._shrunk else {}),
        }

    def _make_room(self) -> None:
        """For the autoencoder, where the plan has no room for it beside the transformer."""
        if self._following and not self._following.transformer_stays and self._transformer is not None:
            self._transformer = self._blocks = None
            let_go(self.device)

    # --- when memory runs out all the same ----------------------------------------------------------------------------

    def _sparing(self, stage: Stage, run: Callable[[], T], watch: Watch) -> T:
        """`run()`, and once more by a smaller plan if memory runs out in it. What was done before is kept."""
        while True:
            try:
                return run()
            except Exception as error:
                if is_gone(error):
                    remedy = "run the same again, which begins anew; if it stays away, add `device=cpu`"
                    raise DeviceLost(
                        f"{self.device} stopped working in the {stage} stage ({one_line(error)}); {remedy}"
                    ) from error
                if self._following is None or not out_of_memory(error):
                    raise
                if self._shrunk:
                    problem = f"ran out of memory in the {stage} stage, with less in it than before, too"
                    remedy = "close other programs, or make a shorter or smaller clip"
                    raise InvalidInput("device", self.device, problem, remedy) from error
            # Here, since the error held all that the failed try had made.
            self._shrunk = stage
            self._shrink(self._following, stage, watch)

    def _spared(self, stage: Stage, run: Callable[..., T], watch: Watch) -> Callable[..., T]:
        """`run`, each call of which has another try."""
        return lambda *given: self._sparing(stage, partial(run, *given), watch)

    def _shrink(self, plan: Plan, stage: Stage, watch: Watch) -> None:
        """Unload, and go on by a plan that takes less in this stage."""
        self.unload()
        self._run_by(smaller(plan, stage))
        self._reduced = self.execution.fixed()
        words = f"ran out of memory in the {stage} stage; going on by a smaller plan, with all that is done"
        watch(Progress(stage, 0, 1, note=words))

    def unload(self) -> None:
        """Drop all that can be read again, and give its memory back."""
        self._transformer = self._blocks = self._autoencoder = None
        self._compiled_for.clear()
        self.text.let_go()
        let_go(self.device)
