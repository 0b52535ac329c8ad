"""Data as JSON (RFC 8259), and JSONPath (RFC 9535) into it by the library jsonpath-rfc9535."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from zkmig.errors import BadInput

DIGITS_MAX = 4000  # Python refuses to read a whole number of more than 4300


class NotJson(ValueError):
    """What keeps data from being judged as JSON, in words that tell nothing of it: "its data is not JSON"."""


def parsed(data: bytes | None) -> Any:
    """The value. NotJson for what is no JSON (NaN and Infinity, other encodings than UTF-8), for an object that names a
    field twice, which readers take in different ways, and for nesting without end."""
    if not data:
        raise NotJson("it has no data, which is not JSON")
    try:
        return _DECODER.decode(data.decode())
    except NotJson:
        raise
    except RecursionError:
        raise NotJson("its data is nested too deeply") from None
    except ValueError:
        raise NotJson("its data is not JSON") from None


def _refused(_constant: str) -> Any:
    raise NotJson("its data is not JSON")


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) <= DIGITS_MAX else float(digits)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise NotJson("an object in its data names a field twice")
    return found


_DECODER = json.JSONDecoder(parse_constant=_refused, parse_int=_whole, object_pairs_hook=_object)


@dataclass(frozen=True, slots=True)
class JsonPath:
    """find: all that it leads to in a value; NotJson for one that is nested too deeply. is_singular: it leads to one
    place at most."""

    find: Callable[[Any], Iterator[Any]]
    is_singular: bool


@lru_cache(maxsize=256)
def path_into(text: str) -> JsonPath:
    """A JSONPath. BadInput for what is none."""
    import jsonpath_rfc9535  # loaded only where there is a path

    try:
        query = jsonpath_rfc9535.compile(text)
    except (jsonpath_rfc9535.JSONPathError, RecursionError, OverflowError) as error:  # the last: 1e400
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(f"no JSONPath: {what}", text, "write it like $.hosts[*]") from None

    def find(value: Any) -> Iterator[Any]:
        try:
            for node in query.finditer(value):
                yield node.value
        except (jsonpath_rfc9535.JSONPathError, RecursionError):
            raise NotJson("its data is nested too deeply") from None

    return JsonPath(find, query.singular_query())
