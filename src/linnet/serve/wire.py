"""linnet's own errors in the words of the interface: its names of fields, how a client gives them, and no folders."""

from pathlib import Path

from linnet.errors import InvalidInput, with_fields

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
# What only whoever runs the server can give.
SERVERS = ("dtype", "device", "vram", "ram", "threads", "weights")


def wire_name(field: str) -> str:
    return FIELDS.get(field, field)


def on_the_wire(error: InvalidInput) -> str:
    """One line for a client. What only whoever runs the server can give is said to be an option of `linnet serve`."""
    value = error.value.name if isinstance(error.value, Path) else error.value
    words = (given_on_the_wire(text) for text in (error.problem, error.remedy))
    return str(InvalidInput(wire_name(error.field), value, *words))


def given_on_the_wire(text: str) -> str:
    """`fit=crop` is fit=crop there, and `steps` num_inference_steps."""
    return with_fields(text, _written)


def _written(field: str, value: str) -> str:
    if field in SERVERS:
        return f"`linnet serve --{field}{f' {value}' if value else ''}`"
    return f"{wire_name(field)}={value}" if value else wire_name(field)
