"""What requests bring: JSON or a form, told apart, checked and made one of the `schemas`."""

from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.datastructures import UploadFile

from linnet.direct.footage import check_fit
from linnet.errors import InvalidInput
from linnet.geometry import Size
from linnet.serve import schemas
from linnet.serve.jobs import InputReference
from linnet.serve.schemas import Refused
from linnet.serve.uploads import is_clip

Body = TypeVar("Body", bound=BaseModel)

LORA = TypeAdapter[schemas.Lora | list[schemas.Lora]](
    schemas.Lora | list[schemas.Lora]
)  # as a form writes it
FIELD_BYTES = 64 * 1024  # of one field of a form; a prompt of the longest kind has 16 kB at most


async def read_body(request: Request, kind: type[Body]) -> Body:
    """JSON, or a form whose fields are the same; numbers come as text in a form, and only there."""
    sort = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise Refused(415, "unsupported_media_type", "send it as it is, without Content-Encoding")
    try:
        if sort == "application/json":
            return kind.model_validate_json(await request.body(), strict=True)
        if sort in ("multipart/form-data", "application/x-www-form-urlencoded"):
            form = await request.form(max_files=1, max_fields=32, max_part_size=FIELD_BYTES)
            names = [name for name, _ in form.multi_items()]
            "".join(
                value for _, value in form.multi_items() if isinstance(value, str)
            ).encode()  # or it is no text
            for name in names:
                if names.count(name) > 1:
                    raise Refused(400, "invalid_request", f"{name[:100]} is given twice", param=name[:100])
            files = {name: value for name, value in form.items() if isinstance(value, UploadFile)}
            for name in files.keys() - ({"input_reference"} if kind is schemas.VideoRequest else set()):
                raise Refused(400, "invalid_request", f"{name[:100]} is no file", param=name[:100])
            fields = nested({name: value for name, value in form.items() if name not in files})
            if isinstance(reference := fields.get("image_reference"), str):  # as JSON, in vLLM-Omni's forms
                fields["image_reference"] = schemas.Reference.model_validate_json(reference)
            if isinstance(lora := fields.get("lora"), str):
                fields["lora"] = LORA.validate_json(lora)
            body = kind.model_validate(fields)
            if isinstance(body, schemas.VideoRequest):
                for file in files.values():
                    body._file = await file.read()
            return body
    except ValidationError as error:
        raise refusal_of(error.errors()) from None
    except UnicodeError:  # which charset a form has is the client's own choice
        raise Refused(400, "invalid_request", "the form is not in UTF-8") from None
    raise Refused(415, "unsupported_media_type", "send application/json or multipart/form-data")


def nested(fields: dict[str, Any]) -> dict[str, Any]:
    """`a[b]` is how a form says the field b of a."""
    fields_by_name: dict[str, Any] = {}
    for name, value in fields.items():
        outer, bracket, inner = name.partition("[")
        within = fields_by_name.setdefault(outer, {}) if bracket and inner.endswith("]") else None
        if isinstance(within, dict):
            within[inner[:-1]] = value
        else:
            fields_by_name[name] = value
    return fields_by_name


def refusal_of(problems: Any) -> Refused:
    """The first thing that is wrong."""
    first = problems[0]
    field = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "header", "path"))
    words = first["msg"][:1].lower() + first["msg"][1:]
    message = f"{field[:100]}: {words[:300]}" if field else words[:300]
    return Refused(400, "invalid_request", message, param=field[:100] or None)


def input_reference_of(
    body: schemas.VideoRequest, content: bytes | None, size: Size
) -> InputReference | None:
    """What was sent, as far as it is looked at here: an image's header, and no more of a clip than tells that it is
    one. InvalidInput for what cannot be used, or for settings of what was not sent."""
    clip = content is not None and is_clip(content)
    if body.strength is not None and not clip:
        remedy = "send one as input_reference, or leave it out"
        raise InvalidInput(
            "strength", body.strength, "is of a clip that is followed, and there is none", remedy
        )
    if content is None:
        if body.fit:
            problem = "is of an image or a clip, and there is none"
            raise InvalidInput("fit", body.fit, problem, "leave it out")
        return None
    if clip:
        from linnet.direct.conditions import STRENGTH  # which imports torch
        from linnet.direct.samplers import check_strength

        strength = STRENGTH if body.strength is None else check_strength(body.strength)
        return InputReference(content, body.fit, strength)
    check_fit(schemas.look_at(content), size, body.fit, field="input_reference", value="image")
    return InputReference(content, body.fit)
