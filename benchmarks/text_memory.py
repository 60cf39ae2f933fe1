"""What the text stage of a model of Linum's true size takes, streamed from the file or held whole.

    python benchmarks/text_memory.py --folder DIR [--dtype bfloat16] [--tokens 256] [--only streamed]

DIR holds weights in the published layout (`linum_cpu.py --folder DIR` writes random ones). Each row is one fresh
process on the CPU that encodes one prompt of that many random tokens and an empty one; "cold" drops the files from
the page cache first, as far as the system lets go of them. Prints the peaks of what the process holds (anonymous and
shared memory), of what is mapped from the files, which can be dropped at any time, and of both together, and a hash of
the states: the same in all rows if they are the same to the last bit.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch
from linum_cpu import SPEC, watch_memory

from linnet.models.text import T5Encoder, t5_xxl
from linnet.runtime.offload import encode_streamed
from linnet.weights.load import fill, matched


def encode(folder: Path, way: str, dtype: torch.dtype, tokens: int) -> None:
    """The measured process."""
    encoder, headers = matched(lambda: T5Encoder(t5_xxl()), folder / SPEC.text_encoder_dir)
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(2, 32_000, (1, tokens), generator=generator), torch.tensor([[1]])]
    start = time.monotonic()
    if way == "streamed":
        states = encode_streamed(encoder, headers, prompts, dtype=dtype)
    else:
        fill(encoder, headers, dtype=dtype)
        with torch.inference_mode():
            states = [encoder(ids, torch.ones_like(ids)) for ids in prompts]
    seconds = time.monotonic() - start
    digest = hashlib.sha256(b"".join(state.numpy().tobytes() for state in states)).hexdigest()
    print(json.dumps({"seconds": seconds, "states": digest[:16]}))


def forget(folder: Path) -> None:
    """Drop the files' pages from the system's cache."""
    for path in (folder / SPEC.text_encoder_dir).glob("*.safetensors"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--only", choices=["streamed", "resident"])
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--measured", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measured:
        return encode(options.folder, options.only, getattr(torch, options.dtype), options.tokens)
    print(f"{'':>9} {'dtype':>9} {'held':>6} {'mapped':>7} {'resident':>9}  GB {'seconds':>9}  states")
    rows = []
    for way in [options.only] if options.only else ["streamed", "resident"]:
        if options.cold:
            forget(options.folder)
        command = [sys.executable, __file__, "--measured", "--folder", str(options.folder), "--only", way]
        command += ["--dtype", options.dtype, "--tokens", str(options.tokens)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        peak: dict[str, int] = {}
        looker = threading.Thread(target=watch_memory, args=(process, peak))
        looker.start()
        said, _ = process.communicate()
        looker.join()
        if process.returncode:
            raise SystemExit(process.returncode)
        found = json.loads(said)
        held, mapped, both = (peak[name] / 1e9 for name in ("held", "mapped", "resident"))
        row = f"{way:>9} {options.dtype:>9} {held:6.2f} {mapped:7.2f} {both:9.2f} {found['seconds']:13.1f}"
        print(f"{row}  {found['states']}", flush=True)
        rows.append({"way": way, "dtype": options.dtype, "seconds": found["seconds"], "peak_bytes": peak})
    print(json.dumps({"tokens": options.tokens, "rows": rows}))
    return None


if __name__ == "__main__":
    main()
