"""A model of Linum's true size, with random weights, on the CPU: does it run, how long, in how much memory?

    python benchmarks/linum_cpu.py [--folder DIR] [--frames 5] [--steps 2]

Writes about 14 GB of random weights in the published layout into DIR (kept there for the next run; a temporary folder
when not given), makes one 640x360 clip in a process of its own, and prints the stages, the peak memory and, last, one
JSON line. "held" is anonymous and shared memory, "mapped" what of the files is in memory and can be dropped at any
time; the sum's peak is the process's peak resident set.
"""

import argparse
import io
import json
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from linnet.catalog import CATALOG
from linnet.models.text import T5Encoder, t5_xxl
from linnet.models.transformer import Transformer, linum_v2
from linnet.models.vae import VAE, VAEConfig

SHARD = 2**30  # bytes of the text encoder's files
PROMPT = "a linnet lands on a stalk of flax"
SPEC = replace(CATALOG["linum-v2-360p"], min_frames=1)  # a few frames say as much about memory as 49


def write_weights(folder: Path, *, text: bool = True) -> None:
    """Random weights in the published layout, bfloat16; what exists is left alone. Without `text` the text encoder's
    file has its header and its size, and nothing in it: it takes no room on the disk, and must not be read."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2**24, generator=generator).to(torch.bfloat16)

    def fill(name: str, shape: torch.Size) -> torch.Tensor:
        if len(shape) <= 1 or name.endswith("gamma"):
            return torch.full(shape, 0.0 if name.endswith("bias") else 1.0, dtype=torch.bfloat16)
        fan_in = shape[1:].numel()
        copies = -(-shape.numel() // noise.numel())
        return (noise.repeat(copies)[: shape.numel()] * fan_in**-0.5).view(shape)

    def save(path: Path, module: nn.Module, prefix: str = "", shard: int | None = None) -> None:
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        shapes = {prefix + name: value.shape for name, value in module.state_dict().items()}
        if shard is None:
            save_file({name: fill(name, shape) for name, shape in shapes.items()}, path)
            return
        groups: list[list[str]] = [[]]
        held = 0
        for name, shape in shapes.items():
            if groups[-1] and held + 2 * shape.numel() > shard:
                groups.append([])
                held = 0
            groups[-1].append(name)
            held += 2 * shape.numel()
        index = {}
        for number, names in enumerate(groups, 1):
            file = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
            save_file({name: fill(name, shapes[name]) for name in names}, path.parent / file)
            index |= dict.fromkeys(names, file)
        path.write_text(json.dumps({"metadata": {}, "weight_map": index}))

    with torch.device("meta"):
        transformer, vae, encoder = Transformer(linum_v2()), VAE(VAEConfig()), T5Encoder(t5_xxl())
    save(folder / SPEC.transformer_file, transformer, "model.")
    save(folder / SPEC.autoencoder_file, vae)
    place = folder / SPEC.text_encoder_dir
    if text:
        save(place / "model.safetensors.index.json", encoder, shard=SHARD)
    elif not (place / "model.safetensors.index.json").exists():
        write_hollow(place / "model.safetensors", encoder)
    (place / "config.json").write_text(
        json.dumps(
            {
                "vocab_size": 32128,
                "d_model": 4096,
                "d_kv": 64,
                "d_ff": 10240,
                "num_layers": 24,
                "num_heads": 64,
                "feed_forward_proj": "gated-gelu",
            }
        )
    )
    write_tokenizer(folder / SPEC.tokenizer_dir)


def write_hollow(path: Path, module: nn.Module) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header, end = {}, 0
    for name, value in module.state_dict().items():
        start, end = end, end + 2 * value.numel()
        header[name] = {"dtype": "BF16", "shape": list(value.shape), "data_offsets": [start, end]}
    said = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(said).to_bytes(8, "little") + said)
        file.truncate(8 + len(said) + end)


def write_tokenizer(folder: Path) -> None:
    """A small sentencepiece model; its pieces are a part of the text encoder's 32,128."""
    import sentencepiece

    folder.mkdir(parents=True, exist_ok=True)
    model = io.BytesIO()
    sentences = [PROMPT, "the quick brown fox jumps over the lazy dog", "pack my box with five dozen jugs"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences * 10), model_writer=model, vocab_size=60, pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    (folder / "spiece.model").write_bytes(model.getvalue())


def one_clip(folder: Path, frames: int, steps: int) -> None:
    """The measured process."""
    from linnet.clip import Progress
    from linnet.pipeline import Pipeline
    from linnet.request import make_request
    from linnet.runtime.machine import resolve_machine
    from linnet.weights.store import resolve

    machine = resolve_machine("cpu", dtype="bfloat16")
    pipeline = Pipeline.open(SPEC, resolve(SPEC, weights=folder), machine)
    request = make_request(SPEC, prompt=PROMPT, frames=frames, steps=steps, seed=1)

    def watch(progress: Progress) -> None:
        print(f"{progress.stage} {progress.done}/{progress.total}", file=sys.stderr, flush=True)

    clip = pipeline.generate(request, folder / "clip.mp4", overwrite=True, watch=watch)
    print(json.dumps(clip.seconds))


def watch_memory(process: subprocess.Popen[str], peak: dict[str, int]) -> None:
    """Keep the peaks of a process's memory, in bytes, looking twenty times a second."""
    while process.poll() is None:
        try:
            status = dict(
                line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
            )
            kib = {name: int(status[name].split()[0]) for name in ("RssAnon", "RssShmem", "RssFile", "VmHWM")}
        except (OSError, KeyError):  # it has just ended
            break
        for name, value in {
            "held": kib["RssAnon"] + kib["RssShmem"],
            "mapped": kib["RssFile"],
            "resident": kib["VmHWM"],
        }.items():
            peak[name] = max(peak.get(name, 0), 1024 * value)
        time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--one-clip", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one_clip:
        one_clip(arguments.folder, arguments.frames, arguments.steps)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        write_weights(folder)
        command = [sys.executable, __file__, "--one-clip", "--folder", str(folder)]
        command += ["--frames", str(arguments.frames), "--steps", str(arguments.steps)]
        start = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        peak: dict[str, int] = {}
        looker = threading.Thread(target=watch_memory, args=(process, peak))
        looker.start()
        stages, _ = process.communicate()
        looker.join()
        if process.returncode:
            raise SystemExit(process.returncode)
        whole = time.monotonic() - start
    for stage, seconds in json.loads(stages).items():
        print(f"{stage:10} {seconds:8.1f} s")
    print(f"{'whole':10} {whole:8.1f} s")
    for name, value in peak.items():
        print(f"{name:10} {value / 2**30:8.2f} GiB at the most")
    print(json.dumps({"seconds": json.loads(stages), "whole": whole, "peak_bytes": peak}))


if __name__ == "__main__":
    main()
