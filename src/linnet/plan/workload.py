"""What is to be planned: a model, a request, a device and what may be used of it, as one record."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, Self

from linnet.catalog import ModelSpec
from linnet.errors import InvalidInput
from linnet.geometry import token_count
from linnet.plan.budget import ALLOWANCES, Allowance, Budget, kind_of, slack
from linnet.plan.execution import ExecutionConfig
from linnet.plan.memory import LINUM_V2, SMALL_TEXT, Shape, shape_of, text_weights
from linnet.plan.passes import denoised, latents_at_once
from linnet.request import Request
from linnet.weights.store import ModelFiles

Stage = Literal["text", "denoise", "decode"]  # of a run
Row = Stage | Literal["encode"]  # which only some requests have
STAGES: tuple[Stage, ...] = ("text", "denoise", "decode")


@dataclass(frozen=True, kw_only=True)
class SizedModel:
    """A row of the catalogue, and how large the model's parts are."""

    spec: ModelSpec
    shape: Shape

    @classmethod
    def of(cls, spec: ModelSpec, files: ModelFiles | None) -> Self:
        """By the headers of its files. That of Linum v2 is known without them; InvalidInput for any other model."""
        if files is None and not spec.published:
            problem = "is not here, and its size is in its files"
            raise InvalidInput("model", spec.name, problem, "give the folder of its weights")
        return cls(spec=spec, shape=shape_of(files) if files else LINUM_V2)


@dataclass(frozen=True, kw_only=True)
class ModelOnDevice:
    """A model, where it runs, and how much memory may be used: what making clips and training have in common."""

    model: SizedModel
    device: str
    budget: Budget

    @property
    def spec(self) -> ModelSpec:
        return self.model.spec

    @property
    def shape(self) -> Shape:
        return self.model.shape

    @cached_property
    def on_cpu(self) -> bool:
        return kind_of(self.device) == "cpu"

    @cached_property
    def allowance(self) -> Allowance:
        return ALLOWANCES[kind_of(self.device)]

    def beyond_tensors(self, size: int, churn: int = 0) -> int:
        """Bytes of the card beside `size` bytes of tensors, `churn` of which come and go: the driver's, and what the
        allocator takes more."""
        return self.allowance.device + slack(size, self.budget.segments, churn)


@dataclass(frozen=True, kw_only=True)
class Workload(ModelOnDevice):
    """`request` with its dtype decided, `clips` times in one batch; `encoded_frames`: frames that are given, and
    encoded first; `compiles`: the transformer's blocks are compiled, where nobody decides otherwise."""

    request: Request
    clips: int = 1
    encoded_frames: int = 0
    compiles: bool = False

    @cached_property
    def denoised(self) -> Request:
        """What is denoised for the request (see `windows.denoised`)."""
        return denoised(self.spec, self.request)

    @cached_property
    def tokens(self) -> int:
        """The most tokens of a clip that go through the model in one pass."""
        return latents_at_once(self.denoised) * token_count(1, self.request.size)

    @cached_property
    def small_text(self) -> bool:
        """Whether the text encoder is so small that it always stays."""
        return text_weights(self.shape, self.request.dtype, ExecutionConfig()) <= SMALL_TEXT

    def asking(self, request: Request) -> Self:
        """The same for another request."""
        return replace(self, request=request)
