"""The windows that a plan counts are those that a run goes through."""

from dataclasses import replace

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from linnet.catalog import CATALOG, find
from linnet.geometry import FRAMES_PER_LATENT
from linnet.models.transformer import TextContext
from linnet.plan.cost_model import CostModel
from linnet.plan.execution import ExecutionConfig
from linnet.plan.host import Budget
from linnet.plan.memory import LINUM_V2
from linnet.plan.passes import forwards, latents_at_once, windows_of
from linnet.plan.plan import SizedModel, Workload
from linnet.request import LONGEST_SECONDS, Request, make_request
from linnet.sampling.autoregressive import autoregressive
from linnet.sampling.solvers import euler
from linnet.sampling.windows import Windowed

NO_TEXT = TextContext((), (), torch.zeros(1, 1))
PER_PASS = CostModel(
    call=1.0,
    block=0.0,
    token=0.0,
    pair=0.0,
    step=0.0,
    frame=0.0,
    cell=0.0,
    low_frame=0.0,
    low_cell=0.0,
    pixel=0.0,
    prompt=None,
    copy=0.0,
    read=None,
)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """Clips of 2 to 300 s, in windows of any length and overlap or in the model's own, loops among them."""
    spec = find(draw(st.sampled_from(sorted(CATALOG))))
    frames = 1 + FRAMES_PER_LATENT * draw(st.integers(12, LONGEST_SECONDS * spec.fps // FRAMES_PER_LATENT))
    loop = draw(st.booleans())
    window = overlap = None
    if draw(st.booleans()):
        window = 1 + FRAMES_PER_LATENT * draw(
            st.integers(spec.least_window // FRAMES_PER_LATENT, spec.max_frames // FRAMES_PER_LATENT)
        )
        overlap = FRAMES_PER_LATENT * draw(st.integers(1, window // FRAMES_PER_LATENT // 2))
    return make_request(
        spec,
        prompt="a star",
        seed=0,
        steps=3,
        frames=frames,
        loop=loop,
        window=window,
        window_overlap=overlap,
    )


def windows_run(request: Request) -> list[int]:
    """The latent frames of each pass in one step of a run, with a model that does nothing."""
    seen: list[int] = []

    def model(latents: torch.Tensor, timestep: float, text: TextContext | None = None) -> torch.Tensor:
        seen.append(latents.shape[2])
        return torch.zeros_like(latents)

    windows = windows_of(request)
    if windows is None:
        return [(request.frames - 1) // FRAMES_PER_LATENT + 1]
    noise = torch.zeros(1, 1, windows.frames, 1, 1)
    if request.onward:
        for _ in autoregressive(
            lambda: model, noise, torch.tensor([1.0, 0.0]), euler, windows, given={}, seed=0
        ):
            pass
    else:
        Windowed(model, windows)(noise, 1.0, NO_TEXT)
    return seen


@given(requests())
@settings(deadline=None, max_examples=25)
@example(
    make_request(find("seedling"), prompt="a star", seed=0, steps=3, seconds=2, loop=True, dtype="float32")
)
@example(
    make_request(find("seedling"), prompt="a star", seed=0, steps=3, seconds=LONGEST_SECONDS, dtype="float32")
)
def test_as_many_windows_are_run_as_were_planned(request: Request) -> None:
    seen = windows_run(request)
    spec = replace(find(request.model), batched_guidance=False)
    workload = Workload(
        model=SizedModel(spec=spec, shape=LINUM_V2),
        request=replace(request, dtype="float32"),
        device="cpu",
        budget=Budget(),
    )
    assert PER_PASS.of(workload, ExecutionConfig())["denoise"] == len(seen) * sum(forwards(request))
    assert latents_at_once(request) == max(seen)
