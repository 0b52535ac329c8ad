"""JSON Schemas of a policy: read, found to be such, and closed, so that judging never reaches out for a part of one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zkmig.errors import BadInput

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

SCHEMA_BYTES_MAX = 1024 * 1024
DIALECT = "https://json-schema.org/draft/2020-12/schema"  # of a schema that names none
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")


def loaded_schema(given: str | Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The schema of a file (its name relative to `folder`), or the one given. BadInput for what is none."""
    where, schema = "", given
    if isinstance(given, str):
        where = str(folder / given)
        schema = _read(where)
    try:
        plain = json.loads(json.dumps(schema, allow_nan=False))  # TOML knows dates and nan, JSON does not
    except (TypeError, ValueError, RecursionError):
        raise BadInput("the schema holds what JSON does not know, as dates", where, "write it as JSON") from None
    if not isinstance(plain, dict):
        raise BadInput("a schema is a table", where)
    _check(plain, where)
    return plain


def _read(path: str) -> Any:
    try:
        with open(path, "rb") as file:
            raw = file.read(SCHEMA_BYTES_MAX + 1)
    except OSError as error:
        raise BadInput(f"the schema cannot be read: {error.strerror}", path, "check the name") from None
    except ValueError:
        raise BadInput("a file name cannot hold NUL", repr(path), "check the name") from None
    if len(raw) > SCHEMA_BYTES_MAX:
        raise BadInput(f"a schema of more than {SCHEMA_BYTES_MAX} bytes", path, "is this the right file?")
    try:
        return json.loads(raw.decode())
    except (ValueError, RecursionError):
        raise BadInput("the schema is no JSON", path, "check the file") from None


def _check(schema: dict[str, Any], where: str) -> None:
    from jsonschema import SchemaError
    from jsonschema.validators import validator_for
    from referencing.jsonschema import UnknownDialect, specification_with

    try:
        specification_with(schema.get("$schema", DIALECT))
    except (UnknownDialect, AttributeError, TypeError):
        raise BadInput("a $schema that is not known", where, "leave it out for draft 2020-12") from None
    try:
        validator_for(schema).check_schema(schema)
    except SchemaError as error:
        place = "/".join(map(str, error.absolute_path))
        raise BadInput(f"no JSON Schema: {error.message[:200]}", f"{where} at {place}".strip(), "mend it") from None
    except RecursionError:
        raise BadInput("the schema is nested too deeply", where, "mend it") from None
    found = {*_references(schema)}
    for reference in sorted(found):
        if not reference.startswith("#"):
            what = f"the schema refers to {reference}, which lies outside of it"
            raise BadInput(what, where, "a schema has to be whole: take that part in under $defs, as #/$defs/...")
        _resolve(schema, reference, where)


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        for name, held in schema.items():
            if name in _REFERENCES and isinstance(held, str):
                yield held
            yield from _references(held)
    elif isinstance(schema, list):
        for held in schema:
            yield from _references(held)


def _resolve(schema: dict[str, Any], reference: str, where: str) -> None:
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import EMPTY_REGISTRY, specification_with

    resource = specification_with(schema.get("$schema", DIALECT)).create_resource(schema)
    resolver = EMPTY_REGISTRY.with_resource("", resource).resolver_with_root(resource)
    try:
        resolver.lookup(reference)
    except (Unresolvable, LookupError, TypeError, ValueError):
        raise BadInput(f"the schema refers to {reference}, which it does not have", where, "mend it") from None


def validator_of(schema: Mapping[str, Any] | bool) -> Validator:
    """What holds data against a schema. It asks nobody for what the schema refers to."""
    from jsonschema.validators import validator_for
    from referencing.jsonschema import EMPTY_REGISTRY

    return validator_for(schema)(schema, registry=EMPTY_REGISTRY)
