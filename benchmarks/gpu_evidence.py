"""All that is to be known about linnet on one graphics card, in a few minutes: speed, memory within a limit, loading.

    python benchmarks/gpu_evidence.py [--folder DIR] [--only NAME ...] [--rehearse [DIR]] [--list]

Linum v2 of its true size with random weights, which take as long as real ones: about 14 GB are written into DIR (kept
there for the next time; a temporary folder when not given). Each row is a process of its own. "fast" has the share of
the steps, and of guided steps, that seedling's profile has; that its quality holds is for real weights to show.

- "load": from opening the files, dropped from the page cache first, to weights on the card.
- "exact", "fast": a whole clip of 640x360, 2 s, compiled; the time is that of its stages, loading and compiling apart.
- "step ...": one step of a 1280x720 clip, the median of three after one to warm up; a clip is 50 of them.
- "... in N GB": no more than that can be taken of the card, whatever it has; two steps and the decoding of three latent
  frames (of the whole clip's size), `reserved` with the allowance for the driver beside what the plan said.

--rehearse runs every row with seedling (or the model in DIR) in place of Linum, on a CPU too: a test of this script,
whose figures mean nothing. --list prints the table of what benchmarks/results/ holds; rows that nobody measured say so.
Ends with one line of JSON; `python benchmarks/record.py gpu_evidence` keeps it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from linnet.catalog import CATALOG, SEEDLING, ModelSpec
from linnet.pipeline import Pipeline
from linnet.plan.budget import ALLOWANCES, Budget
from linnet.plan.host import host_memory
from linnet.plan.machine import Machine
from linnet.plan.workload import SizedModel
from linnet.request import Request, make_request
from linnet.runtime.device import limit_memory
from linnet.runtime.machine import resolve_machine
from linnet.weights.store import ModelFiles, resolve

NOT_MEASURED = "not measured"
RESULTS = Path(__file__).parent / "results" / "gpu_evidence.json"
PROMPT = "a linnet lands on a stalk of flax"
GB = 1_000_000_000
PUBLISHED = {"exact": "34.2 s", "step 720p 5 s": "about 18 s"}  # by the model's authors, on one H100
SMALL, LARGE = "linum-v2-360p", "linum-v2-720p"
SEEN = 3  # latent frames that are decoded where memory is at stake: later ones take no more


@dataclass(frozen=True, kw_only=True)
class Case:
    name: str
    what: str
    model: str
    seconds: float
    settings: dict[str, Any] = field(default_factory=dict)
    vram: int | None = None


def fast(spec: ModelSpec) -> dict[str, Any]:
    """Seedling's profile, for a model with another number of steps."""
    profile = dict(SEEDLING.profiles["fast"])
    return profile | {"steps": round(profile["steps"] * spec.steps / SEEDLING.steps)}


CASES = (
    Case(name="load", what="load", model=SMALL, seconds=2),
    Case(name="exact", what="clip", model=SMALL, seconds=2),
    Case(name="fast", what="clip", model=SMALL, seconds=2, settings=fast(CATALOG[SMALL])),
    Case(name="step 720p 2 s", what="step", model=LARGE, seconds=2),
    Case(name="step 720p 5 s", what="step", model=LARGE, seconds=5),
    Case(name="360p 5 s in 6 GB", what="limit", model=SMALL, seconds=5, vram=6 * GB),
    Case(name="720p 5 s in 8 GB", what="limit", model=LARGE, seconds=5, vram=8 * GB),
    Case(name="720p 5 s in 12 GB", what="limit", model=LARGE, seconds=5, vram=12 * GB),
)


# --- one row, in its own process ------------------------------------------------------------------------------


class Bench:
    def __init__(self, case: Case, folder: Path | None, device: str, rehearse: bool) -> None:
        self.case, self.device = case, device
        self.spec = SEEDLING if rehearse else CATALOG[case.model]
        self.files: ModelFiles = resolve(self.spec, weights=folder)
        # As large and as long as the card's, except where this is only tried out.
        settings: dict[str, Any] = {"seconds": case.seconds, **case.settings}
        if rehearse:
            settings = {"seconds": 0.5, "steps": 4}
        self.request: Request = make_request(self.spec, prompt=PROMPT, seed=1, dtype="bfloat16", **settings)

    def open(self, *, compiled: bool = False, budget: Budget | None = None) -> Pipeline:
        return Pipeline.open(self.spec, self.files, self.machine(budget), compiled=compiled)

    def machine(self, budget: Budget | None = None) -> Machine:
        found = resolve_machine(self.device, dtype="bfloat16")
        return replace(found, budget=budget) if budget else found

    def wait(self) -> float:
        """The time, once the device has done all it was told."""
        if self.device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter()

    def peak(self) -> int | None:
        return torch.cuda.max_memory_reserved() if self.device != "cpu" else None

    def load(self) -> dict[str, Any]:
        for path in self.files.weights:
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        size = sum(path.stat().st_size for path in (self.files.transformer, self.files.autoencoder))
        start = self.wait()
        pipeline = self.open()
        _ = pipeline.model.transformer, pipeline.model.autoencoder
        loaded = self.wait()
        pipeline.model.text_states(PROMPT, "")
        spoken = self.wait()
        return {
            "seconds": loaded - start,
            "bytes": size,
            "text_seconds": spoken - loaded,
            "peak_bytes": self.peak(),
        }

    def clip(self) -> dict[str, Any]:
        pipeline = self.open(compiled=self.device != "cpu")
        with tempfile.TemporaryDirectory() as folder:
            # One step to load, compile and measure; then the clip.
            pipeline.generate(replace(self.request, steps=1), Path(folder) / "warm.mp4")
            clip = pipeline.generate(self.request, Path(folder) / "clip.mp4")
        seconds = {name: clip.seconds[name] for name in ("denoise", "decode")}
        return {
            "seconds": sum(seconds.values()),
            "stages": seconds,
            "steps": self.request.steps,
            "choices": clip.choices,
            "peak_bytes": self.peak(),
        }

    def step(self) -> dict[str, Any]:
        pipeline = self.open(compiled=self.device != "cpu")
        times, last = [], self.wait()
        for step in pipeline.sample(self.request):
            now = self.wait()
            times.append(now - last)
            last = now
            if step.index == 3:
                break
        return {"seconds": median(times[1:]), "steps_of_a_clip": self.spec.steps, "peak_bytes": self.peak()}

    def limit(self) -> dict[str, Any]:
        allowance, vram = ALLOWANCES["cpu" if self.device == "cpu" else "cuda"], self.case.vram
        budget = Budget(device=vram if self.device != "cpu" else None, system=host_memory())
        plan = self.machine(budget).plan(SizedModel.of(self.spec, self.files), self.request)
        limit_memory(self.device, (vram or 0) - allowance.device)
        pipeline = self.open(budget=budget)
        pipeline.model.follow(plan)
        pipeline.model.text_states(PROMPT, "")
        start = self.wait()
        latents = None
        for step in pipeline.sample(self.request):
            latents = step.latents
            if step.index == 1:
                break
        seconds = self.wait() - start
        assert latents is not None
        frames = sum(len(part) for part in pipeline.decode(latents[:1, :, :SEEN]))
        peak = self.peak()
        return {
            "seconds": seconds,
            "planned_bytes": plan.peak_device_bytes,
            "peak_bytes": None if peak is None else peak + allowance.device,
            "decoded_frames": frames,
            "knobs": plan.execution.record() | {"resident_blocks": plan.execution.resident_blocks},
            "shrunk": pipeline.choices().get("shrunk"),
        }


# --- all of them ----------------------------------------------------------------------------------------------


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Markdown; a row that is not in `rows`, or could not be run, says so."""
    lines = ["| what | seconds | published | card memory, GB | plan, GB |", "|---|---|---|---|---|"]

    def gigabytes(size: int | None) -> str:
        return f"{size / 1e9:.1f}" if size else ""

    for case in CASES:
        row = rows.get(case.name, {})
        time = f"{row['seconds']:.2f}" if "seconds" in row else row.get("problem", NOT_MEASURED)
        memory = gigabytes(row.get("peak_bytes")) if row else NOT_MEASURED
        cells = [case.name, time, PUBLISHED.get(case.name, ""), memory, gigabytes(row.get("planned_bytes"))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def run(case: Case, folder: Path | None, device: str, rehearse: bool) -> dict[str, Any]:
    words = [sys.executable, __file__, "--case", case.name, "--device", device]
    words += ["--rehearse"] if rehearse else []
    words += [str(folder)] if rehearse and folder else ["--folder", str(folder)] if folder else []
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().splitlines()
        return {"problem": last[-1].split(". ")[0] if last else f"ended with {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=[case.name for case in CASES])
    parser.add_argument("--rehearse", nargs="?", const="", default=None, metavar="DIR")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    rehearse = options.rehearse is not None
    folder = Path(options.rehearse) if options.rehearse else options.folder
    if options.case:
        (case,) = (case for case in CASES if case.name == options.case)
        bench = Bench(case, folder, options.device, rehearse)
        with torch.inference_mode():
            print(json.dumps(getattr(bench, case.what)()))
        return
    if options.list or (options.device == "cpu" and not rehearse):
        known = json.loads(RESULTS.read_text())["result"]["rows"] if RESULTS.exists() else {}
        print(table(known))
        if not options.list:
            raise SystemExit("there is no graphics card here: nothing was measured")
        return
    chosen = [case for case in CASES if options.only is None or case.name in options.only]
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        if not rehearse:
            from linum_cpu import write_weights

            folder = folder or Path(temporary)
            write_weights(folder)
            large = folder / CATALOG[LARGE].transformer_file  # the same network, for larger frames
            if not large.exists():
                large.symlink_to(Path(CATALOG[SMALL].transformer_file).name)
        for case in chosen:
            rows[case.name] = run(case, folder, options.device, rehearse)
            print(f"{case.name:>18}  {json.dumps(rows[case.name])}", flush=True)
    print(table(rows))
    print(json.dumps({"rehearsal": rehearse, "rows": rows}))


if __name__ == "__main__":
    main()
