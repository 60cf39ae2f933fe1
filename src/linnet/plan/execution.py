"""How a model runs where memory is short: what a plan decides and a pipeline follows. The defaults are the plain way,
everything in memory at once.

Imports no torch, so that a plan is made, or refused, at once.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self, TypedDict

from linnet.catalog import FORMATS, Format
from linnet.errors import InvalidInput

# The settings that can change a clip's bits, be it in rounding alone. Where a block waits changes none.
DECIDING = (
    "token_chunk",
    "transformer_format",
    "text_format",
    "tiling",
    "pasts",
    "autoencoder_dtype",
    "convolutions",
    "fused_norms",
    "batched_guidance",
    "fp8",
)


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """Tiles of up to `rows` x `columns` latent cells (of 8 x 8 pixels), not counting seams, all of one size or one
    smaller; each goes through `chunk` latent frames before the next one's turn. All this costs is time: smaller tiles
    compute more seam, shorter chunks move the pasts more often."""

    rows: int = 30
    columns: int = 40
    chunk: int = 4

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise InvalidInput(f"tiling's {name}", value, "is not a positive number", "use 1 or more")


PREVIEW_TILING = Tiling(rows=15, columns=20, chunk=1)  # for a preview
Pasts = Literal["exact", "bfloat16"]
Convolutions = Literal["plain", "channels_last", "searched"]
Waits = Literal["device", "memory", "file"]  # where the autoencoder is while the transformer works


@dataclass(frozen=True, kw_only=True)
class ExecutionConfig:
    """`token_chunk`: tokens at a time through all of a block but its attention; None: all. `resident_blocks`: of the
    transformer, those that stay on the device, spread evenly; None: all; the others wait where `blocks_from` says.
    `transformer_format`, `text_format`: 8-bit storage of the weights of their blocks' matrix products. `tiling`: of
    the Wan autoencoder's decoding; None: whole frames, one latent frame at a time. `pasts`: in which numbers a tile's
    past waits for its next turn, those that it is computed in ("exact") or bfloat16, in half of the memory.
    `convolutions` of the Wan autoencoder: with weights as their file has them ("plain"), with weights in the order of
    what they convolve ("channels_last"), so that cuDNN copies none, or with cuDNN's trial of its algorithms as well
    ("searched"), whose choice, and so a clip's last bits, may differ from run to run: no plan has it unasked.
    `fused_norms`: of the Wan autoencoder, each with its SiLU as one kernel (models.norm_silu). `compiled`:
    the transformer's blocks are compiled, which clips record beside these settings. `batched_guidance`: both guidance
    passes go through the transformer as one batch, also where the model's row of the catalogue does not say so. `fp8`:
    the products of the transformer's blocks are computed in FP8 (models.fp8), from weights in float8."""

    token_chunk: int | None = None
    resident_blocks: int | None = None
    blocks_from: Literal["memory", "file"] = "memory"
    transformer_format: Format | None = None
    text_format: Format | None = None
    tiling: Tiling | None = None
    pasts: Pasts = "exact"
    autoencoder_dtype: Literal["float32", "bfloat16"] = "float32"
    convolutions: Convolutions = "plain"
    fused_norms: bool = False
    compiled: bool = False
    batched_guidance: bool = False
    fp8: bool = False

    def __post_init__(self) -> None:
        for name, value, least in (
            ("token chunk", self.token_chunk, 1),
            ("resident blocks", self.resident_blocks, 0),
        ):
            if value is not None and value < least:
                raise InvalidInput(name, value, "is out of range", f"use {least} or more, or None")
        for name, value, known in (
            ("transformer format", self.transformer_format, (None, *FORMATS)),
            ("text format", self.text_format, (None, *FORMATS)),
            ("pasts", self.pasts, ("exact", "bfloat16")),
            ("autoencoder dtype", self.autoencoder_dtype, ("float32", "bfloat16")),
            ("convolutions", self.convolutions, ("plain", "channels_last", "searched")),
        ):
            if value not in known:
                raise InvalidInput(name, value, "is not known", f"use {' or '.join(filter(None, known))}")
        for name in ("fused_norms", "compiled", "batched_guidance", "fp8"):
            if not isinstance(value := getattr(self, name), bool):
                raise InvalidInput(name, value, "is neither true nor false", "use one of the two")
        if self.fp8 and self.transformer_format != "float8":
            stored = self.transformer_format or "16 or 32 bits"
            raise InvalidInput(
                "fp8", "true", f"multiplies float8 weights, not those in {stored}", "use float8"
            )

    def loads_as(self, other: Self) -> bool:
        """Whether what was loaded for the other serves this one, too."""
        return replace(self, batched_guidance=other.batched_guidance) == other

    def fixed(self) -> "FixedExecution":
        """All of its settings, for a plan that has no choice."""
        return FixedExecution(
            token_chunk=self.token_chunk,
            resident_blocks=self.resident_blocks,
            blocks_from=self.blocks_from,
            transformer_format=self.transformer_format,
            text_format=self.text_format,
            tiling=self.tiling,
            pasts=self.pasts,
            autoencoder_dtype=self.autoencoder_dtype,
            convolutions=self.convolutions,
            fused_norms=self.fused_norms,
            compiled=self.compiled,
            batched_guidance=self.batched_guidance,
            fp8=self.fp8,
        )

    def record(self) -> dict[str, Any]:
        """Of the deciding ones those that are not as usual, in plain JSON values: what a clip says of them."""
        usual = ExecutionConfig()
        changed = {
            name: getattr(self, name) for name in DECIDING if getattr(self, name) != getattr(usual, name)
        }
        return {
            name: asdict(value) if isinstance(value, Tiling) else value for name, value in changed.items()
        }


class FixedExecution(TypedDict, total=False):
    """Settings of an ExecutionConfig that are decided already; a plan chooses the others."""

    token_chunk: int | None
    resident_blocks: int | None
    blocks_from: Literal["memory", "file"]
    transformer_format: Format | None
    text_format: Format | None
    tiling: Tiling | None
    pasts: Pasts
    autoencoder_dtype: Literal["float32", "bfloat16"]
    convolutions: Convolutions
    fused_norms: bool
    compiled: bool
    batched_guidance: bool
    fp8: bool


NOTHING_FIXED = FixedExecution()


def as_asked(
    fixed: FixedExecution, *, compiled: bool | None = None, fp8: bool | None = None
) -> FixedExecution:
    """`fixed`, an earlier clip's say, with what a person asks of the transformer's blocks; None changes nothing."""
    asked_for = fixed.copy()
    if compiled is not None:
        asked_for["compiled"] = compiled
    if fp8:
        asked_for |= {"fp8": fp8, "transformer_format": "float8"}
    elif fp8 is False and asked_for.get("fp8"):
        asked_for |= {"fp8": False, "transformer_format": None}
    return asked_for


def recorded(record: Mapping[str, Any]) -> FixedExecution:
    """All deciding settings, as a clip's `record` has them; InvalidInput if it cannot have come from there."""
    usual, given = ExecutionConfig(), dict(record)
    try:
        if given.get("tiling") is not None:
            given["tiling"] = Tiling(**given["tiling"])
        ExecutionConfig(**given)
        unknown = set(given) - set(DECIDING)
    except TypeError:
        unknown = set(given)
    if unknown:
        problem = "are not those of this version of linnet"
        raise InvalidInput("knobs", ", ".join(sorted(unknown)), problem, "update linnet, or leave `like` out")
    return FixedExecution(
        token_chunk=given.get("token_chunk", usual.token_chunk),
        transformer_format=given.get("transformer_format", usual.transformer_format),
        text_format=given.get("text_format", usual.text_format),
        tiling=given.get("tiling", usual.tiling),
        pasts=given.get("pasts", usual.pasts),
        autoencoder_dtype=given.get("autoencoder_dtype", usual.autoencoder_dtype),
        convolutions=given.get("convolutions", usual.convolutions),
        fused_norms=given.get("fused_norms", usual.fused_norms),
        batched_guidance=given.get("batched_guidance", usual.batched_guidance),
        fp8=given.get("fp8", usual.fp8),
    )
