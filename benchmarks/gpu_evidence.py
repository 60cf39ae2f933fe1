"""All that is to be known about linnet on one graphics card, in at most eight minutes: speed, memory, loading.

    python benchmarks/gpu_evidence.py [--folder DIR] [--out FILE] [--minutes 8] [--only NAME ...] [--rehearse [DIR]]
    python benchmarks/gpu_evidence.py --list

Linum v2 of its true size with random weights, which take as long as real ones: about 5 GB are written into DIR (kept
there for the next time; a temporary folder when not given). Text states are made up. Each row is a process of its own,
in the order of what matters most if time runs out; after each, all rows so far are written to FILE, beside which the
memory history of the limited rows is dumped. What each row's seconds are of is said in the row. "fast" is 50 steps of
which half are guided and 20 ask the model, by a frozen list: 30 passes; that its quality holds is for real weights to
show. The rows with a limit take no more of the card than that, whatever it has.

--rehearse runs every row with seedling (or the model in DIR) in place of Linum, on a CPU too: a test of this script,
whose figures mean nothing. --list prints the table of what benchmarks/results/ holds; rows that nobody measured say so.
Ends with one line of JSON; `python benchmarks/record.py gpu_evidence` keeps it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from gpu_rows import GB, LARGE, Bench, Case, fast, write_files

NOT_MEASURED = "not measured"
RESULTS = Path(__file__).parent / "results"
PUBLISHED = {"exact": "34.2 s", "720p 5 s, a step": "about 18 s"}  # by the model's authors, on one H100
CLIP = "denoising, decoding and writing a clip of 640x360, 2 s, loading and compiling apart"
LIMIT = "two steps, the first of which reads the blocks; then five latent frames are decoded, not counted"

CASES = (
    Case(name="micro", what="micro", says="attention, products and convolutions, all together; no clip"),
    Case(name="load", what="load", says="reading the transformer and the autoencoder from a warm page cache"),
    Case(
        name="encoder", what="encoder", says="writing 2 s of 640x360 of soft shapes, by the processor alone"
    ),
    Case(
        name="decoding",
        what="decoding",
        says="decoding 17 frames of 640x360 in float32 by each way to run the autoencoder, all together",
    ),
    Case(
        name="exact",
        what="clip",
        says=f"{CLIP}; 50 steps in bfloat16, guidance passes in turn",
        execution={"batched_guidance": False},
    ),
    Case(
        name="exact batched",
        what="clip",
        says=f"{CLIP}; 50 steps in bfloat16, guidance passes in one batch",
        execution={"batched_guidance": True},
    ),
    Case(
        name="exact in FP8",
        what="clip",
        says=f"{CLIP}; 50 steps with products in FP8",
        execution={"batched_guidance": True, "fp8": True, "transformer_format": "float8"},
    ),
    Case(
        name="fast, 30 passes",
        what="clip",
        says=f"{CLIP}; 50 steps, half of them guided, 20 of them asked by a frozen list: 30 passes",
        settings=fast(),
        execution={"batched_guidance": True},
    ),
    Case(name="360p 5 s in 6 GB", what="limit", says=LIMIT, seconds=5, vram=6 * GB),
    Case(name="720p 5 s in 8 GB", what="limit", says=LIMIT, model=LARGE, seconds=5, vram=8 * GB),
    Case(
        name="720p 5 s, a step",
        what="step",
        says="one step, the second, of a clip of 1280x720, 5 s, all in the card's memory",
        model=LARGE,
        seconds=5,
    ),
)

# What rows of an earlier record are of, which do not say so themselves; some of these cases are no more.
EARLIER = {
    "load": "reading the transformer and the autoencoder, of which the page cache held nothing",
    "exact": f"{CLIP}; 50 steps in bfloat16, guidance passes in turn, frames encoded after decoding",
    "fast": "denoising and decoding a clip of 640x360, 2 s, in 25 steps with the options of seedling's fast",
    "step 720p 2 s": "one step of a clip of 1280x720, 2 s: the median of three",
    "720p 5 s in 12 GB": "two steps, a load, a try that ran out of memory, and another load; not compiled",
}
HEADS = ("what", "its seconds are of", "state", "seconds", "published", "card memory, GB", "plan, GB")


def table(rows: Mapping[str, Mapping[str, Any]], plans: Sequence[Mapping[str, Any]] = ()) -> str:
    """Markdown. Each row says whether it was measured, failed, is planned (its memory, from `plans`, the rows of
    benchmarks/plan.py), or was not measured at all."""
    lines = [f"| {' | '.join(HEADS)} |", f"|{'---|' * len(HEADS)}"]
    known = {case.name: case.says for case in CASES} | {
        name: EARLIER[name] for name in EARLIER if name in rows
    }
    for name in known:
        row, planned = rows.get(name, {}), planned_bytes(name, plans)
        says = row.get("says", known[name])
        state = "planned" if planned else NOT_MEASURED
        if row:
            state = f"failed: {row['problem']}" if "problem" in row else "measured"
        took = f"{row['seconds']:.2f}" if "seconds" in row else NOT_MEASURED
        cells = [name, says, state, took, PUBLISHED.get(name, "")]
        cells += [gigabytes(row.get("peak_bytes")), gigabytes(row.get("planned_bytes", planned))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def gigabytes(size: float | None) -> str:
    return f"{size / GB:.1f}" if size else ""


def planned_bytes(name: str, plans: Sequence[Mapping[str, Any]]) -> float | None:
    """Of a row with a limit, with what the driver takes, if it is among the plans on record."""
    for case in CASES:
        for plan in plans:
            if (
                case.name == name
                and case.vram
                and (case.model, case.seconds, case.vram)
                == (
                    plan["model"],
                    plan["seconds"],
                    plan["card"],
                )
            ):
                return plan["plan"]
    return None


def on_record(name: str) -> Any:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text())["result"] if path.exists() else None


def run(case: Case, options: argparse.Namespace, folder: Path | None, seconds: float) -> dict[str, Any]:
    """One row, in a process that gets so many seconds."""
    if seconds <= 0:
        return {"problem": "the time was up before it began"}
    words = [sys.executable, __file__, "--case", case.name, "--device", options.device]
    words += ["--out", str(options.out)] if options.out else []
    words += ["--rehearse"] if options.rehearse is not None else []
    words += [str(folder)] if options.rehearse and folder else ["--folder", str(folder)] if folder else []
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"problem": f"not done in the {seconds:.0f} s that were left"}
    if done.returncode:
        last = done.stderr.strip().splitlines()
        return {"problem": last[-1].split(". ")[0] if last else f"ended with {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


def one(case: Case, options: argparse.Namespace, folder: Path | None) -> dict[str, Any]:
    """A row, in this process."""
    dumps = options.out.absolute().parent if options.out else None
    bench = Bench(case, folder, options.device, rehearse=options.rehearse is not None, dumps=dumps)
    with torch.inference_mode():
        return {"says": case.says, **getattr(bench, case.what)()}


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--out", type=Path, help="rewritten after every row")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all rows")
    parser.add_argument("--only", nargs="+", choices=[case.name for case in CASES])
    parser.add_argument("--rehearse", nargs="?", const="", default=None, metavar="DIR")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    return parser.parse_args(words)


def main() -> None:
    options = parsed()
    folder = Path(options.rehearse) if options.rehearse else options.folder
    if options.case:
        (case,) = (case for case in CASES if case.name == options.case)
        print(json.dumps(one(case, options, folder)))
        return
    if options.list or (options.device == "cpu" and options.rehearse is None):
        print(table((on_record("gpu_evidence") or {}).get("rows", {}), on_record("plan") or ()))
        if not options.list:
            raise SystemExit("there is no graphics card here: nothing was measured")
        return
    chosen = [case for case in CASES if options.only is None or case.name in options.only]
    rows: dict[str, dict[str, Any]] = {}
    found = ""
    with tempfile.TemporaryDirectory() as temporary:
        if options.rehearse is None:
            folder = folder or Path(temporary)
            write_files(folder)
        end = time.monotonic() + 60 * options.minutes  # of the rows; the files may be there already
        for case in chosen:
            rows[case.name] = run(case, options, folder, end - time.monotonic())
            found = json.dumps({"rehearsal": options.rehearse is not None, "rows": rows})
            print(f"{case.name:>18}  {json.dumps(rows[case.name])}", flush=True)
            if options.out:
                options.out.write_text(found + "\n")
    print(table(rows))
    print(found)


if __name__ == "__main__":
    main()
