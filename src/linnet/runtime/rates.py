"""How fast this machine is, measured once and remembered: what a plan's seconds come from.

One block of the transformer is timed at two lengths, which parts what grows with the tokens from what grows with their
square, and the autoencoder on one latent frame of two sizes. A device that nobody measured has no rates, and a plan
then gives no seconds.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from linnet.catalog import ModelSpec
from linnet.geometry import latent_grid, token_count
from linnet.request import Request, parse_reuse
from linnet.runtime import notes
from linnet.runtime.memory import Shape
from linnet.sampling.steps import step_at


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Seconds of one device in one dtype with one number of threads, for one shape of model.

    A block takes `block` + tokens * `token` + tokens^2 * `pair`, and a pass through all of them `step` more for each
    token; decoding a latent frame takes `frame` + cells * `cell`; encoding the prompts `prompt`, None where nobody has
    measured it.
    """

    block: float
    token: float
    pair: float
    step: float
    frame: float
    cell: float
    prompt: float | None

    def of(self, spec: ModelSpec, shape: Shape, request: Request, *, clips: int = 1) -> dict[str, float]:
        """Seconds by stage."""
        tokens, windows = token_count(request.window or request.frames, request.size), window_count(request)
        near = min(tokens, token_count(2 * request.span + 1, request.size)) if request.span else tokens
        together = spec.source == "package"
        seconds = 0.0
        for passes in forwards(request):
            calls, batch = (1, passes * clips) if together else (passes, clips)
            block = self.block + batch * tokens * (self.token + near * self.pair)
            seconds += windows * calls * (shape.layers * block + batch * tokens * self.step)
        grid = latent_grid(request.frames, request.size)
        decode = clips * grid.frames * (self.frame + grid.height * grid.width * self.cell)
        known = {"denoise": seconds, "decode": decode}
        return known if self.prompt is None else {"text": self.prompt, **known}


def window_count(request: Request) -> int:
    """Passes of the model in the place of one, where the clip is made in windows (see sampling.windows)."""
    if not request.window:
        return 1
    frames, step = request.frames - 1, request.window - request.window_overlap
    if request.loop:
        return 1 if frames - 3 <= request.window else max(2, -(-frames // step))
    return -(-max(0, request.frames - request.window) // step) + 1


def forwards(request: Request) -> list[int]:
    """Passes through the transformer of each step that is not skipped: two where it is guided, else one.

    Steps that decide for themselves whether to skip are counted as if none did.
    """
    plain = 0.0 if request.guidance_method == "apg" else 1.0
    skipped = parse_reuse(request.reuse)
    steps = [i for i in range(request.steps) if not (isinstance(skipped, frozenset) and i in skipped)]
    guided = request.guidance != plain
    first, last = (step_at(share, request.steps) for share in (request.guidance_from, request.guidance_until))
    return [2 if guided and first <= step < last else 1 for step in steps]


def key_of(title: str, dtype: str, threads: int, shape: Shape, kind: str) -> str:
    """Under which rates are kept; `kind` is the autoencoder's."""
    return (
        f"{title}, {notes.circumstances()}, {dtype}, {threads} threads, {shape.dim}x{shape.ffn_dim}, {kind}"
    )


def known(key: str, folder: Path | None = None) -> Rates | None:
    """What was measured earlier."""
    try:
        return Rates(**notes.recall("rates", key, folder))
    except TypeError:
        return None


def remember(key: str, rates: Rates, folder: Path | None = None) -> None:
    """Keep them, if the disk lets it."""
    notes.keep("rates", key, asdict(rates), folder)
