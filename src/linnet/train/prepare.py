"""From a folder of clips and a person's settings to a training run: all that can be refused is refused here, before a
weight is read."""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from linnet import __version__
from linnet.catalog import ModelSpec, find
from linnet.data.buckets import Bucket as ClipBucket
from linnet.data.buckets import TrainingClip, clips_in, crops_of, stills_of
from linnet.data.dataset import Dataset, LeftOut, read_dataset
from linnet.data.probe import default_cache
from linnet.errors import InvalidInput
from linnet.filesystem import check_folder
from linnet.plan.cost_model import known
from linnet.plan.execution import FORMATS, PREVIEW_TILING, ExecutionConfig
from linnet.plan.machine import Machine
from linnet.plan.plan import SizedModel
from linnet.plan.training import Bucket, TrainingPlan, TrainingWorkload, plan_training
from linnet.request import Request, make_request
from linnet.train.config import LoopConfig
from linnet.train.distributed import ALONE, Ranks
from linnet.train.loop import Report
from linnet.train.settings import TrainingSettings
from linnet.weights.store import ModelFiles, resolve

Tell = Callable[[str, int, int], object]  # a stage, what is done of it, and the whole
NOT_SPREAD = ("prodigy", "came")  # optimisers
PREVIEWS = 2  # captions that previews are made of, where none is given


@dataclass(frozen=True, kw_only=True)
class PreparedTraining:
    """`clips` are all of the dataset's, held-out ones among them; `shown` are these with the stills and crops of those
    that are not held out.
    `output` is the folder of the run."""

    spec: ModelSpec
    files: ModelFiles
    machine: Machine
    settings: TrainingSettings
    dataset: Dataset
    clips: tuple[TrainingClip, ...]
    shown: tuple[TrainingClip, ...]
    left_out: tuple[LeftOut, ...]
    plan: TrainingPlan
    output: Path

    @property
    def bucket(self) -> ClipBucket:
        """Of most clips."""
        ((bucket, _), *_) = Counter(clip.bucket for clip in self.clips).most_common(1)
        return bucket

    @property
    def name(self) -> str:
        return self.output.name

    @property
    def result(self) -> Path:
        return self.output / f"{self.name}.safetensors"

    @property
    def best(self) -> Path:
        """The file at the lowest held-out loss, where `keep` is best."""
        return self.output / f"{self.name}-best.safetensors"

    def loop(self) -> LoopConfig:
        chosen: Any = self.settings  # in which nothing is None any more
        return LoopConfig(
            steps=chosen.steps,
            learning_rate=chosen.learning_rate,
            optimiser=chosen.optimiser,
            betas=(0.9, 0.99),
            slower=(("rows", ROWS_RATE),),
            weight_decay=chosen.weight_decay,
            accumulation=chosen.accumulation,
            schedule=chosen.schedule,
            warmup=chosen.warmup,
            clip_norm=chosen.clip_norm,
            ema=chosen.ema,
            seed=chosen.seed,
            precision="float32",  # what is narrower is so by itself
            sample_every=chosen.preview_every,
            checkpoint_every=chosen.checkpoint_every,
            validate_every=chosen.validate_every,
        )

    def described(self) -> dict[str, Any]:
        """What a run that goes on has to have been begun with, beside the loop's configuration."""
        kept = asdict(self.settings)
        may_differ = ("previews", "base", "prior_prompts", "keep", *asdict(self.loop()))
        told = {name: value for name, value in kept.items() if name not in may_differ}
        clips = sorted(f"{clip.content} {clip.bucket} {clip.sample.caption}" for clip in self.clips)
        return {"model": self.spec.name, **told, "clips": fingerprint_of(clips)}

    def requests(self) -> list[Request]:
        """What previews show: as asked, else captions of the dataset, those that are held out first; of the size and
        length of most clips."""
        ordered = sorted(self.clips, key=lambda clip: not clip.sample.held_out)
        shown = (
            self.settings.previews or list(dict.fromkeys(clip.sample.caption for clip in ordered))[:PREVIEWS]
        )
        like: Any = {
            "size": str(self.bucket.size),
            "frames": max(self.bucket.frames, self.spec.min_frames),
        }
        return [
            make_request(self.spec, prompt=prompt, seed=number, **like) for number, prompt in enumerate(shown)
        ]


ROWS_RATE = 10.0  # factor on the learning rate of new words' rows, whose numbers are of order one


def fingerprint_of(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def prepare_training(
    folder: Path,
    *,
    model: str,
    output: Path,
    settings: TrainingSettings,
    machine: Machine,
    weights: Path | None = None,
    processes: int = 1,
    tell: Tell = lambda stage, done, total: None,
) -> PreparedTraining:
    """InvalidInput for whatever cannot be done, by the field; no weights are read. `processes` train together."""
    from linnet.train.optimisers import check_optimiser

    spec = find(model)
    files = resolve(spec, weights=weights)
    check_optimiser(settings.optimiser, machine.device)
    if processes > 1 and settings.kind == "full" and settings.optimiser in NOT_SPREAD:
        problem = "does not work on weights that are spread over several processes"
        raise InvalidInput("optimiser", settings.optimiser, problem, "use another one, or `gpus=1`")
    dataset = read_dataset(folder, held_out=settings.held_out)
    clips, left_out = clips_in(dataset, spec, default_cache(), lambda done, total: tell("files", done, total))
    if output.exists():
        check_folder(output)
    chosen = settings.for_clips(spec, len(clips))
    machine = with_base(machine, chosen)
    if chosen.keep == "best" and not (chosen.validate_every and any(c.sample.held_out for c in clips)):
        problem = "goes by the held-out loss, and none is measured"
        remedy = "hold clips out, such as `held_out=0.1`, and leave `validate_every` above 0"
        raise InvalidInput("keep", chosen.keep, problem, remedy)
    held_out = [clip for clip in clips if clip.sample.held_out]
    learnt = [clip for clip in clips if not clip.sample.held_out]
    stills = [still for clip in learnt if not clip.still for still in stills_of(clip, chosen.stills or 0)]
    crops = [crop for clip in [*learnt, *stills] for crop in crops_of(clip, chosen.crops or 0)]
    plan = plan_training(workload_of(spec, files, machine, chosen, clips, stills, processes))
    return PreparedTraining(
        spec=spec,
        files=files,
        machine=machine,
        settings=chosen,
        dataset=dataset,
        clips=tuple(clips),
        shown=(*held_out, *crops),
        left_out=tuple(left_out),
        plan=plan,
        output=output,
    )


def with_base(machine: Machine, chosen: TrainingSettings) -> Machine:
    """Weights that all learn are float32, unless bfloat16 was asked for: small steps would be rounded away."""
    if chosen.kind == "lora":
        return machine
    return replace(machine, dtype="float32" if chosen.base is None else "bfloat16")


def workload_of(
    spec: ModelSpec,
    files: ModelFiles,
    machine: Machine,
    chosen: TrainingSettings,
    clips: Sequence[TrainingClip],
    stills: Sequence[TrainingClip],
    processes: int = 1,
) -> TrainingWorkload:
    sized = SizedModel.of(spec, files)
    counts = Counter(clip.bucket for clip in clips if not clip.sample.held_out)
    ((size, frames), _), *_ = counts.most_common(1)
    for bucket in dict.fromkeys(still.bucket for still in stills):
        counts[bucket] += round(sum(still.sample.repeats for still in stills if still.bucket == bucket))
    return TrainingWorkload(
        model=sized,
        kind=chosen.kind,
        device=machine.device,
        budget=machine.budget,
        dtype=machine.dtype,
        buckets=tuple(Bucket(size, frames, count) for (size, frames), count in sorted(counts.items())),
        batch=chosen.batch or 1,
        rank=chosen.rank,
        targets=chosen.targets,
        optimiser=chosen.optimiser,
        accumulation=chosen.accumulation,
        clipped=chosen.clip_norm > 0,
        processes=processes,
        averaged=chosen.ema > 0,
        kept=chosen.kind == "lora" and bool(chosen.prior),
        text_tokens=spec.max_prompt_tokens,
        base=chosen.base,
        preview=Bucket(size, spec.denoised_frames(max(frames, spec.min_frames)), 1),
        costs=None if machine.title is None else known(machine.key(sized, machine.dtype)),
    )


def run_training(
    ready: PreparedTraining,
    *,
    watch: Callable[[Report], None] = lambda report: None,
    tell: Tell = lambda stage, done, total: None,
    ranks: Ranks = ALONE,
) -> Path:
    """Train, or go on; the file of what was learnt."""
    from linnet.data.encoded import encode_dataset
    from linnet.pipeline import Pipeline
    from linnet.train.blocks import load_transformer, trained_blocks
    from linnet.train.clips import ClipsConfig, ClipsTask, Texts
    from linnet.train.full import TransformerFile, make_full_learner
    from linnet.train.loop import Best, averaged, train
    from linnet.train.lora import LoraFile, make_learner
    from linnet.train.previews import Previews
    from linnet.train.prior import prior_prompts, with_prior
    from linnet.train.sharded import is_sharded, shard

    chosen = ready.settings
    execution = ready.plan.execution
    base: Any = execution.base if execution.base in FORMATS else None
    model_config = ExecutionConfig(
        transformer_format=base,
        resident_blocks=execution.resident_blocks,
        tiling=PREVIEW_TILING if ready.spec.autoencoder == "wan" else None,  # as the plan counts it
    )
    pipeline = Pipeline.open(ready.spec, ready.files, ready.machine, execution=model_config)
    model = pipeline.model
    cache = default_cache() or ready.output / "cache"
    prompts = prior_prompts(ready.spec, chosen.prior or 0, chosen.prior_prompts, chosen.seed)
    large = not model.text.small
    if not ranks.main:
        ranks.wait()  # until all is encoded
    encoded = encode_dataset(pipeline, ready.shown, cache, text=large, captions=prompts, tell=tell)
    transformer = load_transformer(model, execution.resident_blocks)  # here: not in inference mode
    blocks = None
    if execution.checkpointed:
        blocks = trained_blocks(transformer, model.device, random=chosen.dropout > 0)
    model.keep_trained(transformer, None if execution.resident_blocks is None else blocks)
    clips = with_prior(
        pipeline,
        encoded,
        prompts,
        ready.bucket,
        ready.output / "prior",
        seed=chosen.seed,
        tell=tell,
    )
    if ranks.main:
        ranks.wait()
    captions = [clip.sample.caption for clip in ready.clips]
    file: LoraFile | TransformerFile
    if chosen.kind == "lora":
        learner = make_learner(model, transformer, chosen, captions)
        file = LoraFile(model=model, learner=learner, metadata=metadata_of(ready))
    else:
        learner = make_full_learner(model, transformer, captions)
        file = TransformerFile(model=model, learner=learner, ranks=ranks)
        if ranks.count > 1:
            shard(transformer, ranks, str(model.device))
    # Where weights are spread over other processes, the pipeline cannot run with them.
    shown = [] if is_sharded(learner) else ready.requests()
    previews = Previews(pipeline=pipeline, learner=learner, file=file, requests=shown)

    def publish(folder: Path, step: int) -> None:
        saved = file.write(ready.output / f"{ready.name}-{step:06d}.safetensors")
        previews.make(saved, folder, step)

    task = ClipsTask(
        learner,
        clips,
        Texts(model, learner, clips),
        ClipsConfig(
            batch=chosen.batch or 1,
            timesteps=chosen.timesteps,
            shift=ready.spec.shift,
            caption_dropout=chosen.caption_dropout or 0.0,
            first_frame=chosen.first_frame or 0.0,
            seed=chosen.seed,
        ),
        blocks=blocks,
        publish=publish,
        kept=range(len(encoded), len(clips.buckets)) if chosen.kind == "lora" else (),
        ranks=ranks,
    )
    average = train(
        task,
        ready.loop(),
        ready.output,
        device=str(model.device),
        watch=watch,
        described=ready.described(),
        ranks=ranks,
        best=Best(ready.best, file.write) if chosen.keep == "best" else None,
        released=execution.released,
    )
    if ranks.main or is_sharded(learner):
        with averaged(learner, average):
            file.write(ready.result)
    return ready.result


def metadata_of(ready: PreparedTraining) -> dict[str, str]:
    """What other programs and people look for in a LoRA's file."""
    chosen = ready.settings
    return {
        "ss_base_model_version": ready.spec.name,
        "ss_learning_rate": str(chosen.learning_rate),
        "ss_optimizer": chosen.optimiser,
        "ss_seed": str(chosen.seed),
        "ss_steps": str(chosen.steps),
        "ss_num_train_items": str(len(ready.clips)),
        "ss_timestep_sampling": chosen.timesteps,
        "ss_training_finished_at": f"{time.time():.0f}",
        "modelspec.implementation": f"linnet {__version__}",
    }
