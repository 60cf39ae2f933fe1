"""How a request will run: the record that is shown, and that a pipeline follows."""

from dataclasses import dataclass, replace
from typing import Any, Self

from linnet.catalog import ModelSpec
from linnet.geometry import frames_of
from linnet.plan.budget import Allowance, Budget
from linnet.plan.execution import ExecutionConfig, Waits
from linnet.plan.explanations import Choice, Row
from linnet.plan.windows import denoised, latents_at_once, window_count
from linnet.plan.workload import Workload
from linnet.request import Request


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """Peaks in bytes, allowances included; `tensor_bytes`: on the device, without those and without its allocator's
    slack; `classic_bytes`: on the device, with the slack that classic segments take. `seconds` is None where the
    device was not measured."""

    stage: Row
    tensor_bytes: int
    device_bytes: int
    classic_bytes: int
    system_bytes: int
    seconds: float | None
    choices: tuple[Choice, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`text_resident`: the text encoder stays in memory; `transformer_stays`: while the autoencoder works;
    `autoencoder_waits`: where it is while the transformer works, between two previews."""

    workload: Workload
    execution: ExecutionConfig
    text_resident: bool
    stages: tuple[StagePlan, ...]
    transformer_stays: bool = True
    autoencoder_waits: Waits = "device"
    slower: float | None = None  # by which share than with all in memory; None if it was not measured

    @property
    def spec(self) -> ModelSpec:
        return self.workload.spec

    @property
    def request(self) -> Request:
        return self.workload.request

    @property
    def device(self) -> str:
        return self.workload.device

    @property
    def budget(self) -> Budget:
        return self.workload.budget

    @property
    def clips(self) -> int:
        return self.workload.clips

    @property
    def allowance(self) -> Allowance:
        return self.workload.allowance

    @property
    def peak_device_bytes(self) -> int:
        """0 on a CPU, where all is in the system's memory."""
        return max(stage.device_bytes for stage in self.stages)

    @property
    def classic_device_bytes(self) -> int:
        """What the same would take if PyTorch's allocator had no expandable segments."""
        return max(stage.classic_bytes for stage in self.stages)

    @property
    def peak_system_bytes(self) -> int:
        return max(stage.system_bytes for stage in self.stages)

    @property
    def peaks(self) -> dict[str, int]:
        """Both, by the names of the budget's limits."""
        return {"vram": self.peak_device_bytes, "ram": self.peak_system_bytes}

    @property
    def peak_bytes(self) -> int:
        """On the device that it runs on."""
        return self.peak_system_bytes if self.workload.on_cpu else self.peak_device_bytes

    @property
    def seconds(self) -> float | None:
        """Of the stages that were measured; None if denoising or decoding was not."""
        known = {stage.stage: stage.seconds for stage in self.stages if stage.seconds is not None}
        return sum(known.values()) if {"denoise", "decode"} <= known.keys() else None

    @property
    def windows(self) -> int:
        return window_count(denoised(self.spec, self.request))

    @property
    def window_frames(self) -> int:
        """The most frames that the model sees at once."""
        return frames_of(latents_at_once(denoised(self.spec, self.request)))

    def fits(self, budget: Budget | None = None) -> bool:
        limits = (budget or self.budget).limits
        return all(self.peaks[name] <= limit for name, limit in limits.items())

    def with_seed(self, seed: int) -> Self:
        """The same way for the same clip from other noise."""
        return replace(self, workload=self.workload.asking(replace(self.request, seed=seed)))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; bytes and seconds."""
        return {
            "fits": self.fits(),
            "model": self.spec.name,
            "size": str(self.request.size),
            "frames": self.request.frames,
            "clip_seconds": self.request.seconds,
            "steps": self.request.steps,
            "windows": self.windows,
            "window_frames": self.window_frames,
            "peak_device_bytes": self.peak_device_bytes,
            "classic_device_bytes": self.classic_device_bytes,
            "peak_system_bytes": self.peak_system_bytes,
            "seconds": self.seconds,
            "slower": self.slower,
            "device": self.device,
            "dtype": self.request.dtype,
            "budget": {
                "device_bytes": self.budget.device,
                "system_bytes": self.budget.system,
                "others_bytes": self.budget.others,
            },
            "allowance": self.allowance._asdict(),
            "stages": [
                {
                    "stage": stage.stage,
                    "device_bytes": stage.device_bytes,
                    "system_bytes": stage.system_bytes,
                    "seconds": stage.seconds,
                    "choices": [choice._asdict() for choice in stage.choices],
                }
                for stage in self.stages
            ],
        }
