"""Adds request bodies to /openapi.json, since endpoints parse them themselves."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

_REFERENCE = "#/components/schemas/{model}"


def describe_bodies(app: FastAPI, bodies: Mapping[str, type[BaseModel]]) -> None:
    """Add the schemas of request bodies to the OpenAPI document of an application.

    Endpoints parse bodies with `parse_body`, with any content type and with errors in OpenAI's
    shape, so FastAPI does not know them.

    Args:
        app: application with all its routes.
        bodies: body models of POST requests, by path.
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
