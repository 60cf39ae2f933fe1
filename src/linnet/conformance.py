"""Recorded inputs and outputs of the published implementations, run through the modules here.

`python -m linnet.conformance FILE...` prints one row for each recorded output: its relative error,
||out - ref|| / ||ref||, and its tolerance. The exit status is 1 if an output misses or a file cannot be run.

A file is one safetensors file with JSON under the metadata key `config`, tensors `input.*` and `output.*`,
and weights. Its kind is its name's part before the first underscore: `dit` (transformer), `vae`, `tae`
(tiny autoencoder), `apg` (guidance), `e2e` (seeds and text states to frames). Everything is computed in
float32 on the CPU.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from linnet.errors import LinnetError, one_line
from linnet.models.latents import LatentSpace
from linnet.models.tae import TAE, TAEConfig
from linnet.models.transformer import Transformer, TransformerConfig
from linnet.models.vae import VAE, VAEConfig
from linnet.sampling.denoise import Guidance, GuidedVelocity, apg, denoise, per_clip
from linnet.sampling.flow import noise, sigmas

M = TypeVar("M", bound=nn.Module)


class BadRecording(LinnetError):
    """A file that cannot be run: unreadable, of no known kind, or without something that its kind needs."""


@dataclass(frozen=True)
class Recording:
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @classmethod
    def read(cls, path: Path) -> "Recording":
        with safe_open(path, framework="pt") as file:
            config = (file.metadata() or {}).get("config")
            if config is None:
                raise BadRecording("its metadata has no config")
            names: list[str] = list(file.keys())
            return cls(json.loads(config), {name: file.get_tensor(name) for name in names})

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def under(self, prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}

    def settings(self, kind: type) -> dict[str, Any]:
        """The fields of a config class that this file sets; lists become tuples."""
        known = {field.name for field in fields(kind)} & self.config.keys()
        return {name: tuple(v) if isinstance(v := self.config[name], list) else v for name in known}


def loaded(build: Callable[[], M], weights: Mapping[str, Tensor]) -> M:
    with torch.device("meta"):
        module = build()
    module.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, assign=True)
    return module


def run_transformer(file: Recording) -> Iterator[tuple[str, Tensor]]:
    config = TransformerConfig(**file.settings(TransformerConfig))
    model = loaded(lambda: Transformer(config), file.under("state.model."))
    texts = [file[f"input.text.{i}"] for i in range(len(file["input.latents"]))]
    yield "velocity", model(file["input.latents"], file["input.timestep"], model.encode_text(texts))


def run_vae(file: Recording) -> Iterator[tuple[str, Tensor]]:
    config = VAEConfig(**file.settings(VAEConfig))
    vae = loaded(lambda: VAE(config), file.under("state."))
    yield "latents", vae.encode(file["input.video"])
    yield "video", vae.decode(file["input.latents"])


def run_tae(file: Recording) -> Iterator[tuple[str, Tensor]]:
    config = TAEConfig(**file.settings(TAEConfig))
    tae = loaded(lambda: TAE(config), file.under("state."))
    yield "latents", tae.encode(file["input.video"])
    yield "video", tae.decode(file["input.latents"])


def run_apg(file: Recording) -> Iterator[tuple[str, Tensor]]:
    c, momentum_buffer = file.config, None
    for step in range(c["steps"]):
        guided, momentum_buffer = apg(
            file[f"input.{step}.cond"],
            file[f"input.{step}.uncond"],
            momentum_buffer,
            scale=c["guidance_scale"],
            momentum=c["momentum"],
            eta=c["eta"],
            rescale=c["rescale"],
        )
        yield f"{step}.guided", guided


def run_end_to_end(file: Recording) -> Iterator[tuple[str, Tensor]]:
    c = file.config
    config = TransformerConfig(**{"text_dim": 4096, **file.settings(TransformerConfig)})
    model = loaded(lambda: Transformer(config), file.under("dit.model."))
    vae = loaded(lambda: VAE(VAEConfig(dim=c["vae_dim"])), file.under("vae."))
    space = LatentSpace(file["dit.video_data_scale"], file["dit.video_data_bias"])

    shape = (config.channels, (c["num_frames"] - 1) // 4 + 1, c["height"] // 8, c["width"] // 8)
    start = torch.stack([noise(seed, shape) for seed in c["seeds"]])
    yield "noise", start
    velocity = GuidedVelocity(
        model=lambda latents, timestep, text: model(latents, per_clip(timestep, latents), text),
        prompt=model.encode_text([file["input.prompt_embeds"]]),
        negative=model.encode_text([file["input.negative_prompt_embeds"]]),
        guidance=Guidance(
            scale=c["guidance_scale"], rescale=c["apg_rescale"], momentum=c["apg_momentum"], eta=c["apg_eta"]
        ),
    )
    *_, last = denoise(velocity, start, sigmas(c["num_inference_steps"], c["shift"]))
    latents = space.leave(last.latents)
    yield "latents", latents
    video = torch.cat(list(vae.decode_stream(latents)), dim=2)
    yield "frames", (video.clamp(-1, 1) + 1) * 127.5


class Kind(NamedTuple):
    run: Callable[[Recording], Iterator[tuple[str, Tensor]]]
    tolerance: float


KINDS = {
    "dit": Kind(run_transformer, 1e-6),
    "vae": Kind(run_vae, 1e-5),
    "tae": Kind(run_tae, 1e-5),
    "apg": Kind(run_apg, 1e-6),
    "e2e": Kind(run_end_to_end, 1e-4),
}


class Row(NamedTuple):
    output: str
    error: float
    tolerance: float

    @property
    def holds(self) -> bool:
        return self.error <= self.tolerance  # False for NaN too


def relative_error(out: Tensor, reference: Tensor) -> float:
    """||out - ref|| / ||ref||, infinite where the shapes differ."""
    if out.shape != reference.shape:
        return math.inf
    distance, size = (out.double() - reference.double()).norm(), reference.double().norm()
    return 0.0 if distance == 0 else float(distance / size)


@torch.inference_mode()
def check(path: Path) -> list[Row]:
    """One row for each output that the file holds; `BadRecording` where it cannot be run."""
    kind = KINDS.get(path.stem.partition("_")[0])
    if kind is None:
        raise BadRecording(f"unknown kind; a name begins with one of {', '.join(KINDS)}, then _")
    try:
        file = Recording.read(path)
        results = dict(kind.run(file))
    except KeyError as error:
        raise BadRecording(f"lacks {error}") from error
    except (SafetensorError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise BadRecording(str(error)) from error
    rows = []
    # The noise is an input, but one that has to come out of the seeds: bit by bit.
    if "noise" in results:
        rows.append(Row("noise", relative_error(results["noise"], file["input.noise"]), 0.0))
    for name, reference in file.under("output.").items():
        if name not in results:
            raise BadRecording(f"nothing here computes its output.{name}")
        rows.append(Row(name, relative_error(results[name], reference), kind.tolerance))
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m linnet.conformance", description="Run recorded tensors.")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    paths: list[Path] = parser.parse_args(arguments).files
    width = max(len(path.name) for path in paths)
    good = True
    for path in paths:
        try:
            rows = check(path)
        except BadRecording as error:
            good = False
            print(f"{path.name:{width}}  error: {one_line(error)}")
            continue
        for row in rows:
            good &= row.holds
            outcome = f"{row.error:8.1e}  of {row.tolerance:.0e}  {'ok' if row.holds else 'MISS'}"
            print(f"{path.name:{width}}  {row.output:10}  {outcome}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
