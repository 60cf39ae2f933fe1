"""What is to be planned: a model, a request, a device and what may be used of it, as one record."""

from dataclasses import dataclass, replace
from typing import Self

from linnet.catalog import ModelSpec
from linnet.errors import InvalidInput
from linnet.plan.budget import ALLOWANCES, Allowance, Budget, kind_of
from linnet.plan.execution import ExecutionConfig
from linnet.plan.memory import LINUM_V2, SMALL_TEXT, Shape, shape_of, text_weights
from linnet.request import Request
from linnet.weights.store import ModelFiles


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
class Workload:
    """`request` with its dtype decided, `clips` times in one batch; `encoded_frames`: frames that are given, and
    encoded first; `compiles`: the transformer's blocks are compiled, where nobody decides otherwise."""

    model: SizedModel
    request: Request
    device: str
    budget: Budget
    clips: int = 1
    encoded_frames: int = 0
    compiles: bool = False

    @property
    def spec(self) -> ModelSpec:
        return self.model.spec

    @property
    def shape(self) -> Shape:
        return self.model.shape

    @property
    def on_cpu(self) -> bool:
        return kind_of(self.device) == "cpu"

    @property
    def allowance(self) -> Allowance:
        return ALLOWANCES[kind_of(self.device)]

    @property
    def small_text(self) -> bool:
        """Whether the text encoder is so small that it always stays."""
        return text_weights(self.shape, self.request.dtype, ExecutionConfig()) <= SMALL_TEXT

    def asking(self, request: Request) -> Self:
        """The same for another request."""
        return replace(self, request=request)
