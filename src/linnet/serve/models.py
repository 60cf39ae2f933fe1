"""What is said of a request before it is accepted: whether a model here can do it, and what it would take."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linnet.catalog import CATALOG, ModelSpec, find
from linnet.errors import InvalidInput
from linnet.profiles import choose_profile
from linnet.request import Request, RequestSettings, make_request
from linnet.serve.jobs import InputReference
from linnet.serve.lora_folder import LoraFolder, again
from linnet.serve.schemas import VideoRequest
from linnet.weights.store import ModelFiles, locate, resolve

if TYPE_CHECKING:
    from linnet.plan.machine import Machine
    from linnet.plan.plan import Plan

log = logging.getLogger("linnet.serve")


class Models:
    """Those on this machine; `default` is the one that a request gets which names none. `vram` and `ram`: bytes that
    may be used, of the device and of main memory. `elsewhere`: other machines run them, of whose memory and pace
    nothing is known here. `loras`: the folder of those that are offered."""

    def __init__(
        self,
        default: str,
        weights: Path | None,
        device: str,
        *,
        vram: int | None = None,
        ram: int | None = None,
        threads: int | None = None,
        elsewhere: bool = False,
        loras: Path | None = None,
    ) -> None:
        self.default, self.device = find(default), device
        self.vram, self.ram = vram, ram
        self.threads, self.elsewhere = threads, elsewhere
        self.files: dict[str, ModelFiles] = {self.default.name: resolve(self.default, weights=weights)}
        for spec in CATALOG.values():
            if spec.name not in self.files and (files := locate(spec)):
                self.files[spec.name] = files
        self._tokenizers: dict[str, Any] = {}
        self.loras = LoraFolder(loras)

    @property
    def specs(self) -> list[ModelSpec]:
        """The default first."""
        return sorted((find(name) for name in self.files), key=lambda spec: spec is not self.default)

    def spec(self, name: str | None) -> ModelSpec:
        if name is None:
            return self.default
        if name not in self.files:
            remedy = f"use {' or '.join(self.files)}, or leave it out"
            raise InvalidInput("model", name, "is not on this server", remedy)
        return find(name)

    def request(self, body: VideoRequest, like: Request | None = None) -> Request:
        """What was asked for, checked; InvalidInput for what no model here can do."""
        spec = self.spec(body.model or (like.model if like else None))
        if body.fps not in (None, spec.fps):
            raise InvalidInput(
                "fps", body.fps, f"{spec.name} makes {spec.fps} frames a second", "leave it out"
            )
        wanted = body.loras()
        if wanted is None and like and like.model == spec.name:
            wanted = again(like.loras)
        loras = self.loras.resolve(wanted or (), self.files[spec.name].transformer)
        settings: RequestSettings = {
            "negative": body.negative_prompt,
            "seconds": None if body.seconds is None else seconds(body.seconds),
            "frames": body.num_frames,
            "size": body.dimensions(),
            "seed": body.seed,
            "steps": body.num_inference_steps,
            "guidance": body.guidance_scale,
            "loras": loras.uses,
            "profile": body.profile,
        }
        if not self.elsewhere:  # what was tuned here says nothing of other machines
            files = self.files[spec.name]
            chosen = choose_profile(spec, settings, files=lambda: files, device=self.device, like=like)
            for note in chosen.notes:
                log.warning(note.removeprefix("warning: "))
            settings = chosen.settings
        request = make_request(spec, prompt=body.prompt, like=like, **settings)
        if spec.closed_vocabulary:
            self.check_words(spec, request, loras.words)
        return request

    def offered_loras(self, spec: ModelSpec) -> list[str]:
        """Names of those that are of this model."""
        return self.loras.names(self.files[spec.name].transformer)

    def check_words(self, spec: ModelSpec, request: Request, taught: Sequence[str] = ()) -> None:
        from linnet.data.known import check_words, in_words
        from linnet.models.text import Tokenizer

        if spec.name not in self._tokenizers:
            self._tokenizers[spec.name] = Tokenizer.open(self.files[spec.name].tokenizer)
        tokenizer, more = self._tokenizers[spec.name].with_words(taught), in_words(spec)
        for field, text in (("prompt", request.prompt), ("negative", request.negative)):
            check_words(spec, tokenizer, text, field=field, more=more, taught=taught)

    def plan(self, request: Request, given: InputReference | None = None) -> "Plan":
        """How it would run, or nearly, if nothing fits; seconds where `linnet plan --measure` has measured them."""
        from linnet.direct.conditions import Conditions
        from linnet.plan.plan import SizedModel
        from linnet.runtime.machine import with_free_memory

        model = SizedModel.of(find(request.model), self.files[request.model])
        files: Any = {given.kind: Path()} if given else {}
        encoded = Conditions(**files).encoded_frames(request)
        return with_free_memory(self.machine).plan_or_nearest(model, request, encoded_frames=encoded)

    @cached_property
    def machine(self) -> "Machine":
        """Where it would run; of the pace of other machines nothing is known."""
        from linnet.runtime.machine import resolve_machine

        machine = resolve_machine(
            self.device, threads=self.threads, vram=self.vram, ram=self.ram, here=not self.elsewhere
        )
        return replace(machine, title=None) if self.elsewhere else machine

    def free(self) -> int | None:
        """Bytes that a clip may take: what was asked for, else what is free now, where the system says so."""
        from linnet.runtime.device import available_memory, resolve_device

        device = resolve_device(self.device)
        limit = self.ram if device == "cpu" else self.vram
        if limit is not None or self.elsewhere:
            return limit
        return available_memory(device)

    def check_memory(self, request: Request, given: InputReference | None = None) -> None:
        """InvalidInput for what is over the budget that was set; what is free now may be more by then."""
        if self.vram is None and self.ram is None:
            return
        from linnet.plan.host import gigabytes

        need, most = self.plan(request, given).peak_bytes, self.free()
        if most is not None and need > most:
            problem = f"takes about {gigabytes(need)} of memory, and this server may use {gigabytes(most)}"
            raise InvalidInput("seconds", request.seconds, problem, "ask for a shorter or smaller clip")

    def warm(self) -> None:
        """Do now what the first request would wait for."""
        with suppress(InvalidInput):
            self.plan(self.request(VideoRequest(prompt="a")))


def seconds(given: str | float) -> float:
    try:
        return float(given)
    except ValueError:
        raise InvalidInput("seconds", given, "is not a number", 'give a number such as "2"') from None
