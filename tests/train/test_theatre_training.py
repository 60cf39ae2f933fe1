"""Training on the theatre at a size that learns nothing: every part works, stops, goes on, and leaves in parts."""

import json
import random
from dataclasses import replace
from pathlib import Path
from shutil import copyfile
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from linnet.data.theatre import render, stage
from linnet.data.theatre.places import PLACES, PLAIN, TIMES
from linnet.data.theatre.scene import VARIANTS, Scene, sample_scene
from linnet.data.theatre.things import THINGS
from linnet.data.theatre.vocabulary import pieces, write_tokenizer
from linnet.errors import InvalidInput
from linnet.models.tae import TAE, TAEConfig
from linnet.models.text import T5Config, T5Encoder, Tokenizer
from linnet.models.transformer import Transformer, TransformerConfig
from linnet.train.config import LoopConfig
from linnet.train.loop import Report
from linnet.train.theatre.batches import SceneBatches, from_step
from linnet.train.theatre.config import SMALL
from linnet.train.theatre.run import TheatreRun, export_parts, run_phases
from linnet.train.theatre.tasks import things_in
from linnet.train.weight_files import read_parts, write_parts
from linnet.weights.files import TRANSFORMER_PREFIX, read_config
from linnet.weights.load import load_into

TINY = replace(
    SMALL,
    autoencoder=TAEConfig(encoder_width=4, decoder_widths=(4, 4, 4, 4)),
    dim=16,
    layers=1,
    text_dim=16,
    stills=((1, 2, 1.0),),
    clips=((2, 1, 1.0),),
    crop=16,
    sample_steps=1,
)


def noise_of_places() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As `paint_places`, whose painting takes seconds."""
    count = len(PLACES) * VARIANTS
    noise = torch.Generator().manual_seed(0)
    skies = torch.rand(count * len(TIMES) + len(PLAIN), 4, 9, 20, generator=noise)
    return skies, torch.rand(count, 4, 9, 20, generator=noise), torch.rand(count, 4, 9, 20, generator=noise)


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(render, "paint_places", noise_of_places)
    monkeypatch.setattr("linnet.train.theatre.tasks.SHOWN", ("a fox runs on a beach",))
    found = torch.randint(0, 256, (len(THINGS), 4, 24, 24), generator=torch.Generator().manual_seed(0)).byte()
    save_file({"sprites": found}, tmp_path / "sprites", {"names": json.dumps(list(THINGS))})
    return tmp_path / "sprites"


def tiny_run(packed: Path, name: str, **changes: object) -> TheatreRun:
    loop = LoopConfig(steps=3, learning_rate=1e-3, optimiser="muon", warmup=1, log_every=1)
    config = replace(TINY, loops={"autoencoder": loop, "flow": loop})
    folder = packed.parent / name
    run = TheatreRun(config=config, sprites=packed, folder=folder, leaves=folder / "leaves")
    return replace(run, **changes)  # pyright: ignore[reportArgumentType]


def test_phases_leave_parts_from_which_another_machine_goes_on(
    packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int]] = []

    def watch(phase: str, report: Report) -> None:
        seen.append((phase, report.step))

    first = tiny_run(packed, "first")
    reports = run_phases(first, [("autoencoder", 5.0), ("stills", 5.0)], watch)
    assert seen == [(phase, step) for phase in ("autoencoder", "stills") for step in (1, 2, 3)]
    assert [report["phase"] for report in reports] == ["autoencoder", "stills"]
    assert all(report["clips_per_second"] > 0 for report in reports)
    left = {path.name for path in first.leaves.iterdir()}
    parts = {"weights-1-of-1.safetensors"}
    assert left == {"report.json", "sheet-autoencoder.png", "sheet-stills.png"} | parts

    # The same folder goes on with its full state; another one with the averaged weights, from step 0.
    loops = {name: replace(loop, steps=5) for name, loop in first.config.loops.items()}
    longer = replace(first.config, loops=loops)
    (first.folder / "flow" / "config.json").unlink()  # as if the loop had been begun as long
    seen.clear()
    run_phases(replace(first, config=longer), [("clips", 5.0)], watch)
    assert seen == [("clips", 4), ("clips", 5)]
    before, _ = read_parts(first.leaves)
    monkeypatch.setattr("linnet.train.theatre.run.pieces", lambda: ["wolf", *pieces()])  # learnt since
    seen.clear()
    second = tiny_run(packed, "second", begin=first.leaves)
    second = replace(
        second, config=replace(second.config, loops=loops | {"flow": replace(loops["flow"], steps=1)})
    )
    run_phases(second, [("clips", 5.0)], watch)
    assert seen == [("clips", 1)]
    after, _ = read_parts(second.leaves)
    assert all(torch.equal(after[n], before[n]) for n in before if not n.startswith("flow."))
    moved = max((after[n] - before[n]).abs().max().item() for n in before)
    assert 0 < moved < 0.1  # it went on from there, and did not begin anew

    with pytest.raises(InvalidInput, match="comes after a transformer"):
        run_phases(first, [("autoencoder", 1.0)], watch)
    stopped = tiny_run(packed, "stopped")
    (stopped.folder / "flow").mkdir(parents=True)
    copyfile(first.folder / "flow" / "state.safetensors", stopped.folder / "flow" / "state.safetensors")
    with pytest.raises(InvalidInput, match="comes after a transformer"):
        run_phases(stopped, [("autoencoder", 1.0)], watch)
    other = tiny_run(packed, "third", begin=first.leaves)
    with pytest.raises(InvalidInput, match="of another transformer"):
        run_phases(replace(other, config=replace(other.config, dim=32)), [("clips", 1.0)], watch)
    with pytest.raises(InvalidInput, match="needs an autoencoder"):
        run_phases(tiny_run(packed, "fourth"), [("clips", 1.0)], watch)

    # What ships loads strictly, by its own configurations.
    model = packed.parent / "model"
    export_parts(second.leaves, model)
    assert (model / "tokenizer.json").read_bytes() == (first.folder / "tokenizer.json").read_bytes()
    kinds = {
        "autoencoder": lambda c: TAE(TAEConfig.from_json(c)),
        "text_encoder": lambda c: T5Encoder(T5Config(**c)),
        "transformer": lambda c: Transformer(TransformerConfig(**c)),
    }
    for name, build in kinds.items():
        path = model / f"{name}.safetensors"
        prefix = TRANSFORMER_PREFIX if name == "transformer" else ""
        load_into(lambda build=build, path=path: build(read_config(path)), path, prefix=prefix)


def test_a_run_ends_when_its_minutes_are_over(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10_000))  # each look at the clock finds a second more
    monkeypatch.setattr("linnet.train.loop.time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    run = tiny_run(packed, "timed")
    loops = {name: replace(loop, steps=1000) for name, loop in run.config.loops.items()}
    seen: list[Report] = []
    run = replace(run, config=replace(run.config, loops=loops))
    run_phases(run, [("autoencoder", 0.5)], lambda _, report: seen.append(report))
    assert 5 < len(seen) < 30
    rates = [report.numbers["rate"] for report in seen]
    assert rates[0] == 1.0  # after a warm-up of one step
    assert rates[-1] < 0.2
    assert rates == sorted(rates, reverse=True)


def test_parts_are_small_and_come_back_whole_or_not_at_all(tmp_path: Path) -> None:
    weights = {f"w{n}": torch.randn(300, 100, generator=torch.Generator().manual_seed(n)) for n in range(9)}
    paths = write_parts(tmp_path, weights, {"text": {"a": 1}}, most=500_000)
    assert len(paths) == 5
    assert all(path.stat().st_size < 500_000 for path in paths)
    back, said = read_parts(tmp_path)
    assert said == {"text": {"a": 1}}
    assert all(torch.equal(back[name], value) for name, value in weights.items())
    kept = paths[2].read_bytes()
    paths[2].unlink()
    with pytest.raises(InvalidInput, match="not one whole"):
        read_parts(tmp_path)
    paths[2].write_bytes(kept[:-4] + b"\0\0\0\1")
    with pytest.raises(InvalidInput, match="changed on their way"):
        read_parts(tmp_path)
    assert len(write_parts(tmp_path, {"w0": weights["w0"]}, {})) == 1
    assert list(read_parts(tmp_path)[0]) == ["w0"]  # the parts of the larger one are gone


def test_batches_are_the_same_whoever_draws_them(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "tokenizer.json")
    batches = SceneBatches(
        TINY, ((1, 3, 0.5), (3, 2, 0.5)), Tokenizer.open(tmp_path / "tokenizer.json"), seed=4
    )
    alone = [batches[step] for step in range(7, 11)]
    ahead = list(from_step(batches, 7, 11, 2, pin=False))
    for mine, theirs in zip(alone, ahead, strict=True):
        assert torch.equal(mine.ids, theirs.ids)
        assert torch.equal(mine.given, theirs.given)
        assert all(torch.equal(a, b) for a, b in zip(mine.stage, theirs.stage, strict=True))
    assert {batch.stage.seconds.shape for batch in alone} == {(3, 1), (2, 9)}


def test_no_word_is_unknown(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "tokenizer.json")
    tokenizer = Tokenizer.open(tmp_path / "tokenizer.json")
    known = tokenizer.encode("a fox runs", 9).ids
    assert tokenizer.encode("A FOX, runs!", 9).ids == known
    assert len(known) == 4
    assert not tokenizer.unknown("a foxy wolverine's zeppelin qx7")
    assert known[1] in tokenizer.encode("foxy", 9).ids


def test_cells_with_a_thing_are_where_it_is_drawn() -> None:
    found = torch.full((len(THINGS), 4, 24, 24), 255, dtype=torch.uint8)
    skies, far, near = (torch.zeros_like(bank) for bank in noise_of_places())
    scenery = render.make_scenery(found, skies, far, near)
    rng = random.Random(2)
    scenes = [replace(sample_scene(rng), weather="") for _ in range(4)]
    scenes.append(Scene(thing="fox", backdrop="city", motion="runs", toward="right", camera="pans left"))
    set_ = stage.set_stage(scenes, [0] * len(scenes), 9)
    drawn = render.render(scenery, set_).amax(2)
    cells = torch.nn.functional.max_pool2d(drawn, 8) > 0.05
    cells = torch.stack([cells[:, frames].any(1) for frames in ([0], range(1, 5), range(5, 9))], 1)
    told = things_in(scenery, set_, 2) > 0
    assert told.shape == (5, 3, 18, 32)
    assert (told | ~cells).float().mean() > 0.99  # all that is drawn is told
    assert told.sum() < 2.5 * cells.sum()  # and little else
