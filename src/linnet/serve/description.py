"""What /openapi.json says beyond what FastAPI finds by itself."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from linnet.serve import schemas

LINKS = {
    name: {"operationId": name, "parameters": {"video_id": "$response.body#/id"}}
    for name in ("retrieveVideo", "deleteVideo", "downloadVideo", "remixVideo", "cancelVideo", "followVideo")
}
BINARY = {"schema": {"type": "string", "format": "binary"}}
ERRORS = {
    400: "It cannot be done as asked.",
    401: "A key is needed.",
    404: "There is none.",
    409: "Not in this state.",
    412: "It is not the one that is asked for.",
    413: "Too large.",
    415: "Of another kind than expected.",
    416: "It has no such part.",
    429: "Too many jobs wait, or too many are followed.",
    503: "Not now.",
    507: "No room.",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For the OpenAPI document. 403 and 413 and the like of the edge may come from anywhere."""
    return {status: {"model": schemas.Error, "description": ERRORS[status]} for status in statuses}


def body_of(kind: type[BaseModel]) -> dict[str, Any]:
    """A body as JSON or as a form."""
    schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    form = schema | {"properties": {name: plain(of) for name, of in schema["properties"].items()}}
    if "input_reference" in form["properties"]:
        form["properties"]["input_reference"] = BINARY["schema"]
        form["properties"]["image_reference"] = {"type": "string", "description": "As JSON."}
    contents = {"application/json": {"schema": schema}, "multipart/form-data": {"schema": form}}
    return {"requestBody": {"required": True, "content": contents}}


def plain(schema: dict[str, Any]) -> dict[str, Any]:
    """Without null, which a form cannot say: there, a field is left out."""
    return (
        schema | {"anyOf": [kind for kind in schema["anyOf"] if kind != {"type": "null"}]}
        if "anyOf" in schema
        else schema
    )


def openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's own, without the 422 that never comes, and with how to show a key."""
    if app.openapi_schema:
        return app.openapi_schema
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    parts = document.setdefault("components", {})
    parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    parts.setdefault("schemas", {})["Reference"] = schemas.Reference.model_json_schema()
    document["security"] = [{}, {"key": []}]
    envelope = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    elsewhere = {"description": "Asked under a strange name, or by another site.", "content": envelope}
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
            operation["responses"].setdefault("403", elsewhere)
    for name in ("HTTPValidationError", "ValidationError"):
        parts["schemas"].pop(name, None)
    app.openapi_schema = document
    return document
