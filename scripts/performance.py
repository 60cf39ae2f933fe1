"""Write docs/performance.md from what is in benchmarks/results/. A test compares the two."""

import json
import sys
from functools import cache
from pathlib import Path
from textwrap import fill
from typing import Any

from linnet.catalog import SEEDLING
from linnet.weights.files import fingerprint
from linnet.weights.store import resolve

ROOT = Path(__file__).parent.parent
PAGE, RESULTS = ROOT / "docs" / "performance.md", ROOT / "benchmarks" / "results"
sys.path.insert(0, str(ROOT / "benchmarks"))

NOT_MEASURED = "not measured"
ALIKE = (("psnr", ".1f"), ("ssim", ".3f"))


def record(name: str) -> dict[str, Any] | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


@cache
def shipped() -> str:
    """The hash of seedling's weights."""
    return fingerprint(resolve(SEEDLING).weights)


def section(title: str, name: str, rows: Any, heads: str, words: str) -> str:
    """A table, what it was found on and by which command; `rows` makes its lines of the record's result."""
    found = record(name)
    lines = [f"| {heads} |", f"|{'---|' * (heads.count('|') + 1)}"]
    if found is None:
        lines.append(f"| {NOT_MEASURED} |{' |' * heads.count('|')}")
        said = f"By `python benchmarks/record.py {name}`."
    else:
        lines += [f"| {' | '.join(map(str, row))} |" for row in rows(found["result"])]
        said = f"`{found['command']}`: {machine(found)}, torch {found['torch']}, {found['revision']}."
        if weights := found["result"].get("weights") if isinstance(found["result"], dict) else None:
            since = "" if weights == shipped() else ", of before those that ship now"
            said += f" Weights {weights[:12]}{since}."
    return "\n".join([f"## {title}\n", wrapped(words), *lines, "", wrapped(said)])


def forward(result: dict[str, Any]) -> Any:
    for name in ("plain", "eager", "compiled"):
        row = result[name]
        yield name, f"{row['seconds']:.2f}", f"{row['ratio']:.2f}", f"{row['error']:.2%}"


def plans(result: list[dict[str, Any]]) -> Any:
    for row in result:
        gigabytes = {name: f"{size / 1e9:.2f}" for name, size in row.items() if isinstance(size, int)}
        yield (
            f"{row['model'][-4:]}, {row['seconds']:g} s",
            f"{row['card'] / 1e9:g}",
            *(gigabytes[name] for name in ("plan", "tensors", "least", "spare")),
            "out of memory" if row["retries"] is None else row["retries"],
            gigabytes["classic"],
            gigabytes.get("measured", NOT_MEASURED),
        )


def seconds(result: dict[str, Any]) -> Any:
    for row in result["rows"]:
        yield row["what"], f"{row['predicted']:.2f}", f"{row['measured']:.2f}", f"{row['difference']:+.1%}"


def tiles(result: dict[str, Any]) -> Any:
    for row in result["rows"]:
        sizes = (f"{row[name]:.2f}" for name in ("peak", "predicted", "parked", "work"))
        yield f"{row['tiles']}, {row['latents']} latent frames", *sizes


def streams(result: dict[str, Any]) -> Any:
    for row in result["rows"]:
        yield row["way"], row["held"], row["mapped"], f"{row['cpu ratio']:.2f}", f"`{row['output']}`"


def bits(result: dict[str, Any]) -> Any:
    for row in result["rows"]:
        size = f"{row['bytes'] / 1e6:.3g}"
        yield f"{row['part']}, {row['stored']}", size, f"{row['cosine']:.5f}", f"{row['error']:.2%}"


def guidance(result: dict[str, Any]) -> Any:
    for row in result["runs"]:
        yield (
            f"seedling, {row['dtype']}, whole run",
            f"{row['differ']:.1e}",
            f"{row['chunks_differ']:.1e}",
            "",
        )
    step = result["step"]
    times = step["cpu_seconds"]
    yield (
        f"{step['size']}, one step",
        f"{step['differ']:.1e}",
        "",
        f"{times['float64'] / times['float32']:.1f}",
    )


def quality(result: dict[str, Any]) -> Any:
    exact = next((row["cpu_seconds"] for row in result["rows"] if row["way"] == "exact"), None)
    for row in result["rows"]:
        times = f"{exact / row['cpu_seconds']:.1f}" if exact and row["cpu_seconds"] else ""
        least, most = row["interval"]
        right = f"{row['rate']:.0%} of {row['of']} ({least:.0%} to {most:.0%})"
        alike = ("" if row.get(name) is None else f"{row[name]:{form}}" for name, form in ALIKE)
        yield row["way"], times, right, *alike, f"{row['bytes'] / 1e6:.0f}" if row.get("bytes") else ""


def short_clips(result: dict[str, Any]) -> Any:
    for row in sorted(result["rows"], key=lambda row: row["frames"]):
        least, most = row["interval"]
        same = f"{row['as_drawn']} of {row['of']} ({least:.0%} to {most:.0%})"
        yield row["frames"], same, row["all_right"], row["drawn_all_right"]


def solvers(result: dict[str, Any]) -> Any:
    for row in result["rows"]:
        least, most = row["interval"]
        offered = row["steps"] >= SEEDLING.least_steps.get(row["solver"], 1)
        right = f"{row['right']} of {row['of']} ({least:.0%} to {most:.0%})"
        yield row["solver"], row["steps"], right, "yes" if offered else "refused"


def right(result: dict[str, Any]) -> Any:
    for what, share in result["summary"].items():
        least, most = share["interval"]
        found = f"{share['rate']:.1%} ({least:.1%} to {most:.1%})"
        yield what, found, f"{share['ceiling']:.0%}", f"{share['chance']:.1%}", share["of"]


def whole(result: dict[str, Any]) -> Any:
    clip, floor = result["clip"], result["floor"]
    yield "a clip of 2 s", f"{clip['wall']:.1f} s", f"{clip['cpu']:.1f} s", f"{clip['peak_bytes'] / 1e9:.2f}"
    yield "of which torch's import", f"{floor['wall']:.1f} s", "", f"{floor['peak_bytes'] / 1e9:.2f}"
    yield "`linnet --help`", "", f"{result['help_cpu']:.2f} s", ""


def autoencoder(result: dict[str, Any]) -> Any:
    for row in result["rows"]:
        names = "direction", "way", "seconds", "peak_mb", "total_mb", "wall_s"
        yield tuple(row[name] for name in names)


def texts(result: dict[str, Any]) -> Any:
    for row in result["rows"]:
        sizes = (f"{row['peak_bytes'][name] / 1e9:.2f}" for name in ("held", "mapped"))
        yield f"{row['way']}, {row['dtype']}", *sizes, f"{row['seconds']:.0f}"


def beyond(result: dict[str, Any]) -> Any:
    for row in result["rows"]:
        aim = f"{'at most' if row['most'] else 'at least'} {row['aim']:g}"
        ours, naive = figure(row["ours"], row["interval"]), figure(row["naive"], row["naive_interval"])
        yield row["words"], aim, ours, f"{naive}, {row['naive_way']}", row["trials"]


def figure(value: float, interval: list[float] | None) -> str:
    return f"{value:.3g}" if interval is None else "{:.0%} ({:.0%} to {:.0%})".format(value, *interval)


def joins(result: dict[str, Any]) -> Any:
    for way, row in result["ways"].items():
        yield way, f"{row['seam']:.2f}", f"{row['jump']:.1f}", f"{row['same']:.0%}", f"{row['right']:.0%}"


def again(result: dict[str, Any]) -> Any:
    first, second = result["passes"]["all"], result["passes"]["one changed"]
    yield "all four shots, as a simple method makes them each time", first, ""
    yield "the third shot changed", second, f"{second / first:.2f}"


def lengths(result: dict[str, Any]) -> Any:
    short = result["rows"][0]["megabytes"]
    for row in result["rows"]:
        yield f"{row['seconds']} s", f"{row['megabytes']:.0f}", f"{row['megabytes'] / short:.3f}"


def cpu(result: dict[str, Any]) -> Any:
    for stage, took in result["seconds"].items():
        yield stage, f"{took:.0f} s"
    for name, words in (("held", "anonymous and shared memory"), ("mapped", "mapped from files")):
        yield f"peak, {words}", f"{result['peak_bytes'][name] / 1e9:.2f} GB"


def same() -> str:
    words = """The same request on the same machine, with the same dtype, gives the same bytes. A clip that is made in
    one batch with others may differ slightly, because products of other sizes are rounded differently. In float32 it
    differs from the clip that is made alone by at most 1 of 255. In bfloat16 it shows the same content; single pixels
    at edges may differ by up to 64 of 255 (13 and 19 were seen), on average by less than 1. `--dtype float32` gives
    the smaller difference on any machine. `--dtype auto` takes the dtype that this machine multiplies faster: an AMD
    EPYC with AVX-512's bfloat16 and without AMX denoises 2 s of seedling in 4.4 s of CPU time in bfloat16, and in 6.9
    s in float32."""
    return f"## What stays the same\n\n{wrapped(words)}"


def card() -> str:
    from gpu_evidence import table  # pyright: ignore[reportMissingImports]

    found = record("gpu_evidence")
    words = (
        "linnet was not measured on a card yet; `python benchmarks/record.py gpu_evidence` fills this table."
    )
    said = words if found is None else f"{found['device']}, torch {found['torch']}, {found['revision']}."
    published = """The weights are random, of the true size. The published figures are those of the model's authors,
        with their own script on one H100. The state of a row says whether it was measured. Planned memory includes
        what the driver takes."""
    if found and found["revision"] == "4b17bb5aab":
        published += """ The rows with a limit ran before two changes: the driver is now allowed 0.8 GB instead of 0.6,
            and memory is taken in segments that can grow, because fragmentation took up to a fifth of it."""
    plans = record("plan")
    rows = table(found["result"]["rows"] if found else {}, plans["result"] if plans else ())
    return f"## On a graphics card\n\n{wrapped(f'{said} {published}')}\n{rows}\n"


def serving() -> str:
    """What was measured of the service, each row from a benchmark of its own."""
    rows: list[tuple[str, str, str]] = []
    if kill := record("serve_kill"):
        found = kill["result"]
        lost = ", ".join(
            f"{found[name]} {name.replace('_', ' ')}" for name in ("lost", "duplicated", "broken_files")
        )
        words = f"{found['rounds']} rounds of kill -9: jobs of {found['accepted']} accepted, database"
        rows.append((words, f"{lost}; {found['database']}", said_of(kill)))
    if load := record("serve_load"):
        found = load["result"]
        times, shares = found["retrieve_ms"], found["processors"]
        words = f"{found['clients']} clients, {found['requests_a_second']:.0f} requests a second, while a clip is made"
        figures = (
            f"95 % of answers to retrieve within {times['p95']:.1f} ms; "
            f"the load itself took {shares['load']:.2f} of a core"
        )
        rows.append((words, figures, said_of(load)))
    if preview := record("serve_preview"):
        rows.append(("first preview, at the latest", f"{preview['result']['worst']:.2f} s", said_of(preview)))
    if fuzz := record("serve_fuzz"):
        most = max(max(tried.values()) for tried in fuzz["result"]["cases"].values())
        words = f"schemathesis {fuzz['schemathesis']}, all checks, {most} cases an operation, right and wrong ones"
        rows.append((words, f"{fuzz['result']['failures']} failures", said_of(fuzz)))
    lines = [f"| {' | '.join(row)} |" for row in rows] or [f"| {NOT_MEASURED} | | |"]
    return "\n".join(["## Serving\n", "| what | measured | by |", "|---|---|---|", *lines])


def said_of(found: dict[str, Any]) -> str:
    return f"`{found['command']}`, {machine(found)}, {found['revision']}"


def machine(found: dict[str, Any]) -> str:
    return f"{found['device']}, {found['cores']} core{'s' if found['cores'] > 1 else ''}"


SECTIONS = (
    (
        "Seedling shows what was asked for",
        "adherence",
        right,
        "what | right (95 %) | reader's ceiling | a guess | of",
        """Clips of 2 s of combinations of shape, colour and motion that it was never trained on, read from the pixels
        of the files alone. The ceiling is what the same reader gets right on clips that were drawn.""",
    ),
    (
        "Seedling, from the command to the file",
        "seedling",
        whole,
        "what | wall | CPU | peak memory, GB",
        "The whole process, the median of three. The same request gave the same bytes.",
    ),
    (
        "The transformer beside a plain one",
        "forward",
        forward,
        "method | seconds | times faster | relative error",
        """One pass at Linum's width, 2 layers, 3,680 tokens. linnet uses the dtype that it chooses on the device, here
        bfloat16. The plain implementation has float32 weights under bfloat16 autocast and is measured
        in the same run.
        This CPU multiplies bfloat16 in tiles (AMX).""",
    ),
    (
        "The same on a CPU without tiles",
        "forward_without_tiles",
        forward,
        "method | seconds | times faster | relative error",
        """This CPU has AVX-512's instructions for bfloat16 and takes twice as long with them as in float32. linnet
        measures this once and chooses float32. That is most of the gain; the rest comes from compiled blocks.""",
    ),
    (
        "Plans against replayed runs",
        "plan",
        plans,
        "clip | card | plan | tensors | least | spare | retries | classic | measured",
        """GB on the card, with 12 GB of main memory, not compiled; all but the tensors include the 0.8 GB that are
        allowed for the driver. Plan: what `linnet plan` says. Tensors: the most that they take in a whole run on fake
        ones. Least: the smallest card on which a model of PyTorch's allocator, with expandable segments, gets through
        that run. Spare: what the card has beyond that. Retries: how often the allocator has to give back what it
        keeps. Classic: the least without expandable segments, as on Windows, by the same plan; there linnet plans with
        more slack. Measured: what a run took on a card limited to this, by an earlier revision with classic segments.
        """,
    ),
    (
        "Predicted seconds",
        "plan_seconds",
        seconds,
        "what | predicted | measured | differ",
        """The seconds that `linnet plan` predicts after `--measure`, and the seconds that were then measured. Decoding
        includes writing the file.""",
    ),
    (
        "Decoding in tiles",
        "decode_tiles",
        tiles,
        "tile, in latent cells | peak | predicted | parked | work",
        """1280x720 in bfloat16, simulated, weights included: GB on the device, GB parked in main memory, and the work
        as a multiple of the work for whole frames.""",
    ),
    (
        "Blocks that pass through memory",
        "streaming",
        streams,
        "method | held, MB | mapped, MB | time | output",
        """Six layers of Linum's width on the CPU: MB above what the process had before, and CPU time as a multiple of
        the first row's. Equal hashes mean that the output is equal to the last bit.""",
    ),
    (
        "8-bit weights",
        "eight_bits",
        bits,
        "part, stored as | MB a block | cosine | relative error",
        "Two layers of the true width of T5-XXL and of Linum, with random weights, compared with float32.",
    ),
    (
        "8-bit weights, trained",
        "eight_bits_seedling",
        bits,
        "part, stored as | MB a block | cosine | relative error",
        "Seedling's own text encoder on one prompt: its text states compared with those of float32.",
    ),
    (
        "8-bit weights, and what is asked for",
        "eight_bits_adherence",
        quality,
        "method | times faster | all right | PSNR, dB | SSIM | memory as planned, MB",
        """Seedling with its text encoder in 8 bits; all rows have the same prompts and seeds. The clips of exact were
        made earlier and not timed.""",
    ),
    (
        "Guidance in float32",
        "guidance",
        guidance,
        "what | differ | token chunks differ | times slower",
        """The relative difference of the final latents from those in float64. For comparison: the difference that
        another order of the same sums makes (64 tokens at a time), and how much longer float64 takes.""",
    ),
    (
        "What each way to save time costs in quality",
        "profiles",
        quality,
        "method | times faster | all right | PSNR, dB | SSIM | memory as planned, MB",
        """Seedling; all rows have the same prompts and seeds. The table shows the clips that are right in everything
        (95 % interval), and the median PSNR and SSIM compared with exact. Times are CPU seconds, from the text states
        to the file. The clips of fast were made and timed after the others. The command says how long the clips are
        and in how many steps they were made.""",
    ),
    (
        "How few steps each solver needs",
        "solvers",
        solvers,
        "solver | steps | all right (95 %) | offered",
        """Seedling at its own guidance, clips of 2 s, read from the files. APG's momentum is held at its limit for
        dpm++ and unipc, and for Euler in fewer than 20 steps. Without that it swings from step to step: Euler then had
        26 of 50 right in 6 steps and 8 of 14 in 8 steps, and dpm++ 1 of 8 in 10 steps. For the Linum models dpm++ and
        unipc are offered from 10 steps on. That number comes from theory and was not measured. Euler keeps the
        published momentum there at any number of steps. A step that is longer than the last continues no more of a
        change than one of the last's length: without that limit unipc had 43 of 50 right in 10 steps, and dpm++ 44 of
        50 in 8.""",
    ),
    (
        "Short clips",
        "short_clips",
        short_clips,
        "frames | as the drawn scene (95 %) | all right | drawn: all right",
        """Seedling, with its defaults, on the same questions at each length. It was trained on clips of 1, 25 and 49
        frames. A clip of 5 to 21 frames is the last frames of one of 25: of the first 13 frames 52 of 60 were right,
        because what rises begins slowly. A short clip can show less, such as half a hop. So the first count is of clips
        in which the reader sees what it sees in the same scene drawn in as many frames.""",
    ),
    (
        "Beyond one clip",
        "continuity",
        beyond,
        "what | aim | linnet | simple method | trials",
        """Seedling, read from the pixels alone: shares of the trials (95 % interval), or medians over them. A simple
        method to make the same stands in the next column. The seam of a clip is its largest change between frames at a
        border of windows, or at a cut, divided by its largest change in as many stretches of four frames elsewhere. A
        second does not count if a drawn clip does not show its shape in it either, because it is too small or too
        large. Refining was not measured, since seedling has one size.""",
    ),
    (
        "Ten seconds, more prompts",
        "continuity_long",
        beyond,
        "what | aim | linnet | simple method | trials",
        "The same measures of long clips. The trials of the table above are the first of these.",
    ),
    (
        "From other clips",
        "continuity_clips",
        beyond,
        "what | aim | linnet | simple method | trials",
        "The same measures of clips that follow a video in another colour, and of edits.",
    ),
    (
        "How a storyboard's shot begins",
        "storyboard",
        joins,
        "method | seam | jump, pixels | same object | as asked",
        """Films of two shots by seedling; medians over the films. Seam: the largest change between frames within the
        join, divided by the largest change in a stretch of that length elsewhere. Jump: the farthest that the object
        moves in a frame.""",
    ),
    (
        "The autoencoder as a stream",
        "vae_memory",
        autoencoder,
        "direction | method | seconds of video | peak, MB | with the process, MB | seconds",
        """Wan's autoencoder, narrower: MB above what the process had before, for a clip that is streamed and for a
        whole one.""",
    ),
    (
        "T5-XXL, streamed and whole",
        "text_memory",
        texts,
        "method | held, GB | mapped, GB | seconds",
        "Random weights of the true size, one prompt: the memory of the process, and the mapped pages of the file.",
    ),
    (
        "A storyboard of 4 shots, one changed",
        "storyboard",
        again,
        "what is rendered | forward passes | to the first",
        "How often seedling's transformer runs for a film, and for the same film after one of its shots was changed.",
    ),
    (
        "60 s clip: peak memory to that of 5 s",
        "long",
        lengths,
        "clip | peak, MB | to the first",
        """Seedling on the CPU, a process each, in the same windows of 49 frames, one step. The aim: no more than 1.15.
        A clip that is made all at once, which is the simple method, was not measured.""",
    ),
    (
        "Linum's size on a CPU",
        "linum_cpu",
        cpu,
        "what | measured",
        "640x360, 5 frames, random weights of the true size; T5-XXL streams from its file.",
    ),
)


def page() -> str:
    words = """Written by `python scripts/performance.py` from `benchmarks/results/`. Each table says by which command,
    on what and at which revision it was measured. Where other programs shared the processor, CPU seconds are
    counted."""
    return "\n".join(
        [
            "# Performance\n",
            wrapped(words),
            same(),
            card(),
            *(section(*one) for one in SECTIONS),
            serving() + "\n",
        ]
    )


def wrapped(words: str) -> str:
    return fill(" ".join(words.split()), 118) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
