"""Bulk reads on the wire: the codec of the backend in use. What it does is told in `bulk_plain`, the specification."""

from __future__ import annotations

from functools import cache
from types import ModuleType

from zkmig import backend
from zkmig.wire import bulk_plain


@cache
def codec() -> ModuleType:
    """The module that encodes and decodes bulk reads: zkmig._fast.bulk, or its twin bulk_plain."""
    if backend.name() == "cython":
        from zkmig._fast import bulk as compiled

        return compiled
    return bulk_plain
