"""Data as JSON (RFC 8259), and JSONPath (RFC 9535) into it by the library jsonpath-rfc9535."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from zkmig.errors import BadInput


def parsed(data: bytes | None) -> Any:
    """The value. ValueError for what is no JSON: NaN and Infinity, other encodings than UTF-8, nesting without end."""
    try:
        return json.loads((data or b"").decode(), parse_constant=_refused)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


@dataclass(frozen=True, slots=True)
class JsonPath:
    """find: all that it leads to in a value. is_singular: it leads to one place at most."""

    find: Callable[[Any], Iterator[Any]]
    is_singular: bool


@lru_cache(maxsize=256)
def path_into(text: str) -> JsonPath:
    """A JSONPath. BadInput for what is none."""
    import jsonpath_rfc9535  # loaded only where there is a path

    try:
        query = jsonpath_rfc9535.compile(text)
    except jsonpath_rfc9535.JSONPathError as error:
        raise BadInput(f"no JSONPath: {str(error).splitlines()[0]}", text, "write it like $.hosts[*]") from None
    return JsonPath(lambda value: (node.value for node in query.finditer(value)), query.singular_query())
