"""What /openapi.json says of request bodies, which endpoints read themselves."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

_REFERENCE = "#/components/schemas/{model}"


def describe_bodies(app: FastAPI, bodies: Mapping[str, type[BaseModel]]) -> None:
    """Add the schemas of bodies to the description of an application.

    Endpoints parse bodies with `parse_body`, whatever content type a client names, and with errors
    in OpenAI's shape; so FastAPI does not know them.

    Args:
        app: of which all routes are there.
        bodies: of POST requests, by path.
    """
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        models = dict.fromkeys(bodies.values())
        _, definitions = models_json_schema(
            [(model, "validation") for model in models], ref_template=_REFERENCE
        )
        schemas.update(definitions["$defs"])
        for path, model in bodies.items():
            schema = {"$ref": _REFERENCE.format(model=model.__name__)}
            content = {"application/json": {"schema": schema}}
            document["paths"][path]["post"]["requestBody"] = {"content": content, "required": True}
        return document

    app.openapi = openapi
