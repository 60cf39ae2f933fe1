"""linnet's own errors in the words of the interface: its names of fields, how a client gives them, and no folders."""

import re
from pathlib import Path

from linnet.errors import InvalidInput

# The fields of linnet's own request by the names that they have on the wire.
FIELDS = {
    "frames": "num_frames",
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "negative": "negative_prompt",
    "width": "size",
    "height": "size",
    "image": "input_reference",
    "video": "input_reference",
}
# What may be said to be given to a command, by what a client gives; with what a value of it looks like.
NUMBER = r"[0-9]+(?:\.[0-9]+)?"
OPTIONS = {
    **dict.fromkeys(("seconds", "frames", "steps", "guidance", "seed", "strength"), NUMBER),
    **dict.fromkeys(("model", "profile"), r"[a-z0-9-]+(?:\.[0-9]+)*"),
    "fit": "crop|pad",
    "size": "[0-9]+x[0-9]+",
    "image": "(?!)",
    "video": "(?!)",
}
SERVERS = re.compile(
    r"--(dtype|device|vram|ram|threads|weights)(?: (?!and\b|or\b)([A-Za-z0-9:.]*[A-Za-z0-9]))?"
)


def wire_name(field: str) -> str:
    return FIELDS.get(field, field)


def on_the_wire(error: InvalidInput) -> str:
    """One line for a client. What only whoever runs the server can give is said to be an option of `linnet serve`."""
    value = error.value.name if isinstance(error.value, Path) else error.value
    words = (given_on_the_wire(text) for text in (error.problem, error.remedy))
    return str(InvalidInput(wire_name(error.field), value, *words))


def given_on_the_wire(text: str) -> str:
    """`--seconds 3` is seconds=3 there."""
    for option, value in OPTIONS.items():
        text = re.sub(rf"--{option}\b(?: ({value})(?![A-Za-z0-9]))?", _named, text)
    return SERVERS.sub(r"`linnet serve \g<0>`", text)


def _named(found: re.Match[str]) -> str:
    name = wire_name(found[0].partition(" ")[0].removeprefix("--"))
    return name if found[1] is None else f"{name}={found[1]}"
