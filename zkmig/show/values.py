"""Values: data of znodes as an output may show it: as text, as base64, or with the reason why not at all."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from zkmig.model.acl import AclList, masked
from zkmig.policy.captures import CapturePattern


@dataclass(frozen=True, slots=True)
class Masks:
    """Patterns of the nodes whose data is never shown."""

    patterns: tuple[CapturePattern, ...] = ()

    @classmethod
    def of(cls, texts: Iterable[str]) -> Masks:
        """BadInput for what is no pattern."""
        return cls(tuple(map(CapturePattern.parse, dict.fromkeys(texts))))

    def hides(self, path: str) -> bool:
        """Whether the data of the node at this path is masked."""
        return any(pattern.match(path) is not None for pattern in self.patterns)


class Sight:
    """What of all data one output shows.

    is_asked: False shows none. value_bytes_max: of one value; more of it is cut off. bytes_max: of all values, as
    JSON has them; those that come when it is used up are left out. Both are said where they strike, the second in
    `beyond` too.
    """

    def __init__(self, masks: Masks, is_asked: bool, value_bytes_max: int | None, bytes_max: int | None = None) -> None:
        self.masks = masks
        self.is_asked = is_asked
        self.masked = 0  # values that were not shown since they are masked
        self.cut = 0
        self.beyond = 0
        self._value_bytes_max = value_bytes_max
        self._bytes_left = bytes_max

    def value(self, path: str, data: bytes | None) -> dict[str, Any]:
        """For JSON: {"is": "null" | "text" | "base64" | "masked" | "not asked" | "left out", "bytes": N, ...}.

        text or base64 holds the data; "cut": true where that is only the begin of it.
        """
        size = len(data or b"")
        if data is None:
            return {"is": "null", "bytes": 0}
        if self.masks.hides(path):
            self.masked += 1
            return {"is": "masked", "bytes": size}
        if not self.is_asked:
            return {"is": "not asked", "bytes": size}
        shown = data if self._value_bytes_max is None else data[: self._value_bytes_max]
        held = _held(data, len(shown))
        if self._bytes_left is not None:
            taken = sum(len(json.dumps(text)) for text in held.values())  # a NUL takes six bytes of JSON
            if taken > self._bytes_left:
                self.beyond += 1
                return {"is": "left out", "bytes": size}
            self._bytes_left -= taken
        found: dict[str, Any] = {"is": "text", "bytes": size, **held}
        if "base64" in found:
            found["is"] = "base64"
        if len(shown) < size:
            self.cut += 1
            found["cut"] = True
        return found


def _held(data: bytes, length: int) -> dict[str, str]:
    """So many bytes of it, as text where all of it is text; a character is not cut in two."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data[:length]).decode("ascii")}
    return {"text": data[:length].decode(errors="ignore")}


@lru_cache(maxsize=1024)
def acl_texts(acl: AclList) -> tuple[str, ...]:
    """Its entries, the hashes of digest identities left out as a server leaves them out."""
    return tuple(str(entry) for entry in masked(acl))
