"""A model in memory: read from disk when it is first needed, placed as a plan says, freed when memory runs out.

Axes: M the text encoder's width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from linnet.catalog import ModelSpec
from linnet.clip import Progress, Watch, ignore
from linnet.errors import DeviceLost, InvalidInput, one_line
from linnet.loras import LoraUse, any_merged
from linnet.models.latents import LatentSpace, linum_v2_latents
from linnet.models.tae import TAE, TAEConfig
from linnet.models.text import Encoded, Tokenizer
from linnet.models.transformer import Block, Transformer, TransformerConfig
from linnet.plan.execution import NOTHING_FIXED, ExecutionConfig, FixedExecution
from linnet.plan.host import Budget
from linnet.plan.machine import Machine, as_loaded, can_merge, first_fitting, smaller
from linnet.plan.plan import Plan, SizedModel, Stage
from linnet.request import Request
from linnet.runtime.device import check_format, free_memory, is_gone, out_of_memory
from linnet.runtime.machine import with_free_memory
from linnet.runtime.text import TextStates
from linnet.weights.files import TRANSFORMER_PREFIX, Header, fingerprint
from linnet.weights.load import (
    config_as,
    fill,
    load_into,
    matched,
    read_latent_scale,
    stored_format,
    transformer_of,
)
from linnet.weights.store import ModelFiles

if TYPE_CHECKING:
    from linnet.models.vae import VAE
    from linnet.runtime.loras import LorasInUse
    from linnet.runtime.stream import BlockStream

P = ParamSpec("P")
T = TypeVar("T")


class LoadedModel:
    """Tokenizer, text encoder, transformer and autoencoder of one model, on one device, and the plan that they follow.

    A large text encoder streams through memory unless there is plenty. Its states of a prompt are kept, also on disk if
    `cache` allows, so a prompt is encoded once. `execution` is how to run, where that is not left to the planner, and
    `fixed` are single settings of it that the planner has to keep. `on_load` is called with the progress of weights
    that are read, and of frames that are encoded."""

    def __init__(
        self,
        spec: ModelSpec,
        files: ModelFiles,
        machine: Machine,
        *,
        cache: bool = True,
        execution: ExecutionConfig | None = None,
        fixed: FixedExecution = NOTHING_FIXED,
    ) -> None:
        self.spec, self.files, self.machine = spec, files, machine
        self.device, self.dtype = torch.device(machine.device), getattr(torch, machine.dtype)
        self.execution = replace(execution or ExecutionConfig(), **fixed)
        self.compiled_shapes: set[tuple[object, ...]] = set()  # the first step of each shape compiles, too
        self.on_load: Watch = ignore
        self.following: Plan | None = None  # the plan that was given, or a smaller one since memory ran out
        self.shrunk: Stage | None = None  # the stage in which memory ran out under the plan that was given
        self._given: Plan | None = None
        self._fixed = self.execution.fixed() if execution else fixed
        self._reduced: FixedExecution | None = None  # what all plans keep to since memory ran out
        self.tokenizer = self._own_tokenizer = Tokenizer.open(files.tokenizer)
        self.taught: tuple[str, ...] = ()  # words beyond the model's own vocabulary
        self.text = TextStates(
            files.text_encoder,
            device=self.device,
            dtype=self.dtype,
            cache=cache,
            format=self.execution.text_format,
            loading=partial(self._reading, "text encoder"),
        )
        # Brings those of the transformer's blocks that are elsewhere.
        self.blocks: BlockStream | Sequence[Block] | None = None
        self._transformer: Transformer | None = None
        self._trained: tuple[Transformer, Sequence[Block] | None] | None = None  # which cannot be read again
        self._autoencoder: VAE | TAE | None = None
        self._autoencoder_copy: dict[str, Tensor] | None = None  # in main memory, where it waits there
        self._space: LatentSpace | None = None
        self._hash = ""
        self.lora_folder: Path | None = None  # in which requests name their LoRAs; None: they name files
        self._loras: LorasInUse | None = None

    def check_files(self) -> None:
        """WeightsError if the files do not hold exactly this model, InvalidInput where the device cannot do what was
        asked; reads the files' headers alone."""
        for headers in (self.text.matched[1], self.matched_transformer()[1]):
            check_format(stored_format(headers), self.device)
        for format in (self.execution.transformer_format, self.execution.text_format):
            check_format(format, self.device)
        matched(self._new_autoencoder, self.files.autoencoder)

    @property
    def model_hash(self) -> str:
        """A fingerprint of all weight files."""
        self._hash = self._hash or fingerprint(self.files.weights)
        return self._hash

    def _reading(self, part: str, done: int, total: int) -> None:
        self.on_load(Progress("load", done, total, part=part))

    # --- text ---------------------------------------------------------------------------------------------------------

    def learn_words(self, words: Mapping[str, Float[Tensor, " M"]]) -> None:
        """Know these words beside the model's own, each by its row of the text encoder's table, and no others that were
        learnt before. Only a small text encoder can; the vocabulary of a large one writes any word."""
        if words and not self.text.small:
            problem = f"teaches words ({', '.join(words)}), and {self.spec.name}'s vocabulary is not closed"
            raise InvalidInput("lora", ", ".join(words), problem, "use a LoRA that was made for this model")
        self.taught = tuple(words)
        self.tokenizer = self._own_tokenizer.with_words(self.taught)
        self.text.set_new_rows(torch.stack([row.float() for row in words.values()]) if words else None)

    def encode(self, prompt: str) -> Encoded:
        """The prompt's tokens as the model will get them, and the words that were cut off."""
        return self.tokenizer.encode(prompt, self.spec.max_prompt_tokens)

    def text_states(self, *prompts: str, watch: Watch = ignore) -> list[Float[Tensor, "_ M"]]:
        """The text encoder's states of the real tokens of each prompt."""
        tokens = [self.encode(prompt).ids for prompt in prompts]
        return self.text.of(tokens, lambda done, total: watch(Progress("text", done, total)))

    def free_text_encoder(self) -> None:
        """It streams from its file from now on, unless it is small. The states that are known stay."""
        self.text.free()

    # --- transformer --------------------------------------------------------------------------------------------------

    def matched_transformer(self) -> tuple[Transformer, list[Header]]:
        path = self.files.transformer
        model, headers = matched(
            lambda: transformer_of(path),
            path,
            prefix=TRANSFORMER_PREFIX,
            quantise=self.execution.transformer_format,
        )
        if self.execution.fp8:
            from linnet.models.fp8 import multiply_in_fp8

            model = multiply_in_fp8(model)
        return model, headers

    @property
    def transformer_config(self) -> TransformerConfig:
        """Reads no weights."""
        return (self._transformer or self.matched_transformer()[0]).config

    @property
    def has_transformer(self) -> bool:
        """Whether its weights are in memory."""
        return self._transformer is not None

    @property
    def transformer(self) -> Transformer:
        """Where `execution.resident_blocks` is set, some of its blocks are elsewhere: `blocks` brings them."""
        if self._transformer is None:
            watch = partial(self._reading, "transformer")
            watch(0, 1)
            model, headers = self.matched_transformer()
            stream: BlockStream | None = None
            if self.execution.resident_blocks is None:
                fill(
                    model,
                    headers,
                    device=self.device,
                    dtype=self.dtype,
                    prefix=TRANSFORMER_PREFIX,
                    watch=watch,
                )
                if self._loras:
                    self._loras.apply(model)
            else:
                from linnet.runtime.stream import stream_into

                self.blocks = stream = stream_into(
                    model,
                    headers,
                    device=self.device,
                    dtype=self.dtype,
                    resident_blocks=self.execution.resident_blocks,
                    blocks_from=self.execution.blocks_from,
                    prefix=TRANSFORMER_PREFIX,
                    adapt=self._loras.apply if self._loras else None,
                    watch=watch,
                )
            if self.execution.compiled:
                from linnet.runtime.compile import compile_blocks

                compile_blocks(stream.real if stream else model.blocks)
            self._transformer = model.eval()
        return self._transformer

    @property
    def loras(self) -> tuple[LoraUse, ...]:
        """Those that are in use."""
        return self._loras.uses if self._loras else ()

    def use_loras(self, uses: tuple[LoraUse, ...]) -> None:
        """Compute with these from now on, and no others. WeightsError where a file is not there, is of another model,
        or is not what it was when it was asked for."""
        uses = tuple(use for use in uses if use.strength)
        if uses == self.loras:
            return
        if self.blocks is not None or any_merged(self.loras + uses):
            self.free_transformer()  # its blocks are here one by one, or its weights are not as they were
        elif self._loras and self._transformer is not None:
            self._loras.remove(self._transformer)
        self._loras = None
        if uses:
            from linnet.runtime.loras import LorasInUse  # where there are any

            self._loras = LorasInUse.read(uses, self.matched_transformer()[0], self.lora_folder)
            if self._transformer is not None:
                self._loras.apply(self._transformer)
        self.learn_words(self._loras.words if self._loras else {})
        self.compiled_shapes.clear()

    def keep_trained(self, transformer: Transformer, blocks: Sequence[Block] | None = None) -> None:
        """Compute with this one from now on, and never free it: it is being trained, and is nowhere else. `blocks`
        stand for its own, some of which may be in main memory."""
        self._trained = transformer, blocks
        self._transformer, self.blocks = transformer, blocks

    def free_transformer(self) -> None:
        if self._transformer is not None and self._trained is None:
            self._transformer = self.blocks = None
            free_memory(self.device)

    # --- autoencoder --------------------------------------------------------------------------------------------------

    def _new_autoencoder(self) -> "VAE | TAE":
        file = self.files.autoencoder
        if self.spec.autoencoder == "wan":
            from linnet.models.vae import VAE, VAEConfig

            return VAE(config_as(VAEConfig, file) or VAEConfig())
        return TAE(config_as(TAEConfig, file) or TAEConfig())

    @property
    def has_autoencoder(self) -> bool:
        """Whether its weights are in memory."""
        return self._autoencoder is not None

    @property
    def autoencoder(self) -> "VAE | TAE":
        if self._autoencoder is None and self._autoencoder_copy is not None:
            from linnet.runtime import transfer

            with torch.device("meta"):
                model = self._new_autoencoder()
            state = {
                name: transfer.move(tensor, self.device) for name, tensor in self._autoencoder_copy.items()
            }
            model.load_state_dict(state, assign=True)
            self._autoencoder = self._as_executed(model.requires_grad_(False).eval())
        if self._autoencoder is None:
            self._reading("autoencoder", 0, 1)
            dtype = getattr(torch, self.execution.autoencoder_dtype)
            model = load_into(self._new_autoencoder, self.files.autoencoder, device=self.device, dtype=dtype)
            self._autoencoder = self._as_executed(model.eval())
            self._reading("autoencoder", 1, 1)
        return self._autoencoder

    def _as_executed(self, model: "VAE | TAE") -> "VAE | TAE":
        if self.spec.autoencoder != "wan":
            return model
        from linnet.models.vae import VAE, fuse_norms, lay_channels_last

        assert isinstance(model, VAE)
        if self.execution.convolutions != "plain":
            lay_channels_last(model)
        return fuse_norms(model) if self.execution.fused_norms else model

    def offload_autoencoder(self) -> None:
        """Where the plan has no room for it beside a step of the transformer, until it is used again."""
        waits = self.following.autoencoder_waits if self.following else "device"
        if self._autoencoder is None or waits == "device":
            return
        if waits == "memory" and self._autoencoder_copy is None:
            from linnet.runtime.transfer import locked

            state = self._autoencoder.state_dict()
            self._autoencoder_copy = {name: locked(tensor, self.device) for name, tensor in state.items()}
        self._autoencoder = None

    @property
    def latent_space(self) -> LatentSpace:
        """The transformer's own, as its file says, else Linum v2's."""
        if self._space is None:
            stored = read_latent_scale(self.files.transformer)
            self._space = LatentSpace(*stored) if stored else linum_v2_latents()
        return self._space

    def free_autoencoder(self) -> None:
        """Its memory can be used again, and is given back to the device with the next `unload`."""
        self._autoencoder = None

    # --- where everything goes ----------------------------------------------------------------------------------------

    def settled(self, request: Request) -> Request:
        """The request as a clip records it, with nothing left for the device to decide."""
        return self.machine.prepare(replace(request, dtype=self.machine.dtype))

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
        fits_loras = can_merge(self.execution) or not any_merged(request.loras)
        if self._transformer is not None and not self.machine.budget.limited and fits_loras:
            return self._plan_as_loaded(request, clips, encoded_frames)
        machine = with_free_memory(self.machine)
        if self._reduced:
            workload = machine.workload(self.sized, request, clips=clips, encoded_frames=encoded_frames)
            if plan := first_fitting(workload, machine.costs(workload), self._reduced):
                return plan
        return machine.plan(
            self.sized, request, clips=clips, encoded_frames=encoded_frames, fixed=self._fixed
        )

    def _plan_as_loaded(self, request: Request, clips: int, encoded_frames: int) -> Plan:
        budget = self.following.budget if self.following else Budget()
        machine = replace(self.machine, budget=budget)
        workload = machine.workload(self.sized, request, clips=clips, encoded_frames=encoded_frames)
        costs = machine.costs(workload)
        waits = self.following.autoencoder_waits if self.following else "device"
        plans = [
            Plan(
                workload=workload,
                execution=execution,
                text_resident=self.text.keep_resident,
                autoencoder_waits=waits,
                costs=costs,
            )
            for execution in as_loaded(workload, self.execution, self._fixed)
        ]
        return next((plan for plan in plans if plan.fits()), plans[-1])

    def follow(self, plan: Plan) -> None:
        """Run by this plan from now on; what is loaded is dropped where it asks for another way.

        Given again, it goes on by what became of it: if memory ran out, by a smaller one.
        """
        if plan is self._given:
            return
        self.use_loras(plan.request.loras)
        self._given, self.shrunk = plan, None
        if self._reduced:
            plan = first_fitting(plan.workload, fixed=self._reduced) or plan
        self._run_by(plan)

    def _run_by(self, plan: Plan) -> None:
        if not plan.execution.loads_as(self.execution):
            self.unload()
        if not plan.text_resident:
            self.text.free()
        self.following, self.execution, self.text.keep_resident = plan, plan.execution, plan.text_resident

    def make_room_for_autoencoder(self) -> None:
        """Where the plan has none for it beside the transformer."""
        if self.following and not self.following.transformer_stays:
            self.free_transformer()

    # --- when memory runs out all the same ----------------------------------------------------------------------------

    def retry_on_oom(self, stage: Stage, run: Callable[[], T], watch: Watch) -> T:
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
                if self.following is None or not out_of_memory(error):
                    raise
                if self.shrunk:
                    problem = f"ran out of memory in the {stage} stage, with less in it than before, too"
                    remedy = "close other programs, or make a shorter or smaller clip"
                    raise InvalidInput("device", self.device, problem, remedy) from error
            # Here, since the error held all that the failed try had made.
            self.shrunk = stage
            self._shrink(self.following, stage, watch)

    def retrying(self, stage: Stage, run: Callable[P, T], watch: Watch) -> Callable[P, T]:
        """`run`, each call of which has another try."""

        def tried(*given: P.args, **more: P.kwargs) -> T:
            return self.retry_on_oom(stage, partial(run, *given, **more), watch)

        return tried

    def _shrink(self, plan: Plan, stage: Stage, watch: Watch) -> None:
        """Unload, and go on by a plan that takes less in this stage."""
        self.unload()
        self._run_by(smaller(plan, stage))
        self._reduced = self.execution.fixed()
        words = f"ran out of memory in the {stage} stage; going on by a smaller plan, with all that is done"
        watch(Progress(stage, 0, 1, note=words))

    def unload(self) -> None:
        """Drop all that can be read again, and give its memory back."""
        self._autoencoder = self._autoencoder_copy = None
        self._transformer, self.blocks = self._trained or (None, None)
        self.compiled_shapes.clear()
        self.text.free()
        free_memory(self.device)
