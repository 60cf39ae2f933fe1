"""The machine that a plan is made for. It is resolved once, by `linnet.runtime.machine`, for Python, the command line
and the server alike."""

from dataclasses import dataclass, replace

from linnet.plan import cost_model
from linnet.plan.budget import Budget, kind_of
from linnet.plan.candidates import first_fitting, least
from linnet.plan.cost_model import CostModel
from linnet.plan.execution import NOTHING_FIXED, FixedExecution
from linnet.plan.plan import Plan
from linnet.plan.workload import SizedModel, Workload
from linnet.request import Dtype, Request


@dataclass(frozen=True, kw_only=True)
class Machine:
    """`dtype` is that of matrix products where a request leaves it open. `title`: the hardware's name and all else that
    times depend on; None for a device that is not here, of which no times are known. `compiler`: one for the device's
    kernels is there."""

    device: str
    dtype: Dtype
    threads: int
    budget: Budget
    title: str | None = None
    compiler: bool = False

    def prepare(self, request: Request) -> Request:
        """The request with nothing left for the device to decide."""
        dtype = self.dtype if request.dtype == "auto" else request.dtype
        decoder = dtype if request.decoder_dtype == "auto" else request.decoder_dtype
        return replace(request, dtype=dtype, decoder_dtype=decoder)

    def workload(
        self, model: SizedModel, request: Request, *, clips: int = 1, encoded_frames: int = 0
    ) -> Workload:
        return Workload(
            model=model,
            request=self.prepare(request),
            device=self.device,
            budget=self.budget,
            clips=clips,
            encoded_frames=encoded_frames,
            compiles=self.compiler and model.spec.compiled and kind_of(self.device) == "cuda",
        )

    def plan(
        self,
        model: SizedModel,
        request: Request,
        *,
        clips: int = 1,
        encoded_frames: int = 0,
        fixed: FixedExecution = NOTHING_FIXED,
    ) -> Plan:
        """How the request will run; TooLarge if it does not fit, with what would. `clips` are made in one batch, and
        `encoded_frames` of pixels encoded first; `fixed` settings are decided already."""
        workload = self.workload(model, request, clips=clips, encoded_frames=encoded_frames)
        return choose(workload, self.costs(workload), fixed)

    def plan_or_nearest(self, model: SizedModel, request: Request, *, encoded_frames: int = 0) -> Plan:
        """The same, but where nothing fits, the plan that comes nearest."""
        workload = self.workload(model, request, encoded_frames=encoded_frames)
        return first_fitting(workload, self.costs(workload)) or least(workload)

    def check(
        self,
        model: SizedModel,
        request: Request,
        *,
        encoded_frames: int = 0,
        fixed: FixedExecution = NOTHING_FIXED,
    ) -> None:
        """TooLarge for what does not fit; makes no plan."""
        workload = self.workload(model, request, encoded_frames=encoded_frames)
        choose(workload, fixed=fixed)

    def costs(self, workload: Workload) -> CostModel | None:
        """What was measured of this machine for such a model; None if nothing was."""
        if self.title is None:
            return None
        return cost_model.known(self.key(workload.model, workload.request.dtype))

    def key(self, model: SizedModel, dtype: str) -> str:
        """Under which a cost model is kept."""
        assert self.title is not None  # a machine that is not here is not measured
        return cost_model.key_of(self.title, dtype, self.threads, model.shape, model.spec.autoencoder)


def choose(workload: Workload, costs: CostModel | None = None, fixed: FixedExecution = NOTHING_FIXED) -> Plan:
    """The first way to run that fits, of those that cost least; `fixed` settings are decided already.

    TooLarge, with the nearest request that would fit, if there is none.
    """
    if plan := first_fitting(workload, costs, fixed):
        return plan

    from linnet.plan.refusal import too_large

    raise too_large(workload, fixed)
