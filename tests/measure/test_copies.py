"""A step on a card waits for nothing from the host: no tensor crosses between the two, and no number is read."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from linnet.direct.samplers import Edited, Renoised
from linnet.models.transformer import TextContext
from linnet.plan.passes import in_a_ring, in_a_row
from linnet.sampling.autoregressive import autoregressive
from linnet.sampling.denoise import (
    Guidance,
    GuidedVelocity,
    Step,
    Velocity,
    denoise,
    levels_between,
    per_clip,
)
from linnet.sampling.flow import sigmas
from linnet.sampling.keep_frames import KeptFrames
from linnet.sampling.solvers import SOLVERS
from linnet.sampling.step_cache import CachedVelocity
from linnet.sampling.windows import Windowed

LEVELS, FRAMES = sigmas(12, shift=3.0), 9
NOISE, CLIP, FRAME = (
    torch.empty(shape, device="meta") for shape in ((2, 4, FRAMES, 3, 3), (1, 4, FRAMES, 3, 3), (1, 4, 3, 3))
)
TEXTS = [TextContext((), (), torch.zeros(1, 1)) for _ in range(2)]


class Crossings(TorchDispatchMode):
    """What crosses between main memory and a device that is not there, whose numbers nobody can read."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.constants = Constants(self.seen)

    def __enter__(self) -> "Crossings":
        self.constants.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.constants.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, torch.Tensor)]
        # A number of the host's goes along with the call that takes it.
        if len({x.device.type for x in tensors if x.dim() or func is torch.ops.aten._to_copy.default}) > 1:
            self.seen.append(f"{func} of {[tuple(x.shape) for x in tensors]}")
        return result


class Constants(TorchFunctionMode):
    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.tensor, torch.as_tensor) and (kwargs or {}).get("device"):
            self.seen.append(f"{func} of {args[0]}")
        return func(*args, **(kwargs or {}))


def guided(model: Any = None, batched: bool = False) -> Velocity:
    """Half of its steps are guided."""

    def run(latents: torch.Tensor, timestep: float, text: TextContext) -> torch.Tensor:
        return latents * per_clip(timestep, latents).view(-1, 1, 1, 1, 1)

    guidance = Guidance(levels=levels_between(LEVELS, 0.25, 0.75))
    prompt, negative = TEXTS
    return GuidedVelocity(
        model=model(run) if model else run,
        prompt=prompt,
        negative=negative,
        guidance=guidance,
        batched=batched,
    )


def cached(hold: bool) -> Velocity:
    return CachedVelocity(velocity=guided(), count=12, skip=frozenset({3, 4, 7}), hold=hold)


def plain(velocity: Velocity, solver: str = "euler") -> Iterator[Step]:
    return denoise(velocity, NOISE, LEVELS, SOLVERS[solver])


def sampled(sampler: Any) -> Iterator[Step]:
    return sampler(guided(), NOISE, LEVELS, SOLVERS["euler"])


LOOPS: dict[str, Callable[[], Iterator[Step]]] = {
    "guided": lambda: plain(guided()),
    "batched": lambda: plain(guided(batched=True)),
    "unipc": lambda: plain(guided(), "unipc"),
    "dpm++": lambda: plain(guided(), "dpm++"),
    "held": lambda: plain(cached(hold=True)),
    "continued": lambda: plain(cached(hold=False)),
    "windows": lambda: plain(guided(lambda run: Windowed(run, in_a_row(FRAMES, 5, 2)))),
    "loop": lambda: plain(guided(lambda run: Windowed(run, in_a_ring(FRAMES, FRAMES, 1)))),
    "onward": lambda: autoregressive(
        guided,
        NOISE,
        LEVELS,
        SOLVERS["euler"],
        in_a_row(FRAMES, 5, 2),
        given={0: FRAME.repeat(2, 1, 1, 1)},
        seed=0,
    ),
    "kept": lambda: sampled(KeptFrames(frames={0: FRAME, -1: FRAME}, seed=0, resampling_steps=2)),
    "renoised": lambda: sampled(Renoised(clip=CLIP, strength=0.5)),
    "edited": lambda: sampled(
        Edited(clip=CLIP, source=guided(), strength=0.9, seed=0, plain=(guided(), guided()))
    ),
}
# Which frames each window has, copied once a run or once a window.
ONCE = {"windows": 6, "loop": 2, "onward": 3}


class AnywhereGenerator(torch.Generator):
    def __new__(cls, device: torch.device) -> "AnywhereGenerator":
        return super().__new__(cls)


@pytest.fixture
def generators(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device that is not there has none."""
    drawn = torch.randn
    monkeypatch.setattr(torch, "Generator", AnywhereGenerator)
    monkeypatch.setattr(torch, "randn", lambda *shape, generator, **more: drawn(*shape, **more))


@pytest.mark.parametrize("loop", LOOPS)
def test_nothing_crosses_in_a_step(loop: str, generators: None) -> None:
    with Crossings() as crossings:
        steps = list(LOOPS[loop]())
    assert all(step.latents.is_meta and step.denoised.is_meta for step in steps)
    assert len(crossings.seen) == ONCE.get(loop, 0), crossings.seen


def test_what_crosses_would_be_seen() -> None:
    with Crossings() as crossings:
        for _ in plain(lambda latents, timestep: latents * torch.tensor([timestep]).to(latents.device)):
            pass
        assert len(crossings.seen) == 12
        torch.tensor([1.0], device="meta")
        assert len(crossings.seen) == 13
        with pytest.raises(RuntimeError, match="meta"):
            float(NOISE.sum())
