"""Finding: the nodes of a draft that a pattern with captures describes. As `CapturePattern.find`, over an overlay."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from zkmig.model import path as paths
from zkmig.model.patterns import MANY, ONE
from zkmig.policy.captures import CapturePattern, Captures
from zkmig.script.overlay import Overlay


class Found(NamedTuple):
    """A path that fits, and what stands in the place of each capture."""

    path: str
    captures: Captures


def find(overlay: Overlay, text: str) -> Iterator[Found]:
    """In tree order. Only what can fit is looked at: text leads straight to one child, `*` and captures to all of them.

    BadInput for what is no pattern. Nothing may be changed meanwhile.
    """
    pattern = CapturePattern.parse(text)
    parts = pattern.text[1:].split("/") if pattern.text != "/" else []
    components = [None if part == MANY else CapturePattern.parse(f"/{part}") for part in parts]
    above = [] if overlay.root == "/" else overlay.root[1:].split("/")
    todo = [(overlay.root, len(above))]
    for component, name in zip(components, above, strict=False):
        if component is None:
            break
        if component.match(f"/{name}") is None:
            return
    while todo:
        path, depth = todo.pop()
        node = overlay.find(path)
        if node is None:
            continue
        if None in components[:depth]:
            for below in overlay.walk(path, node):
                if (captures := pattern.match(below)) is not None:
                    yield Found(below, captures)
        elif depth >= len(components):
            if depth == len(components) and (captures := pattern.match(path)) is not None:
                yield Found(path, captures)
        elif (component := components[depth]) is None:
            todo.append((path, depth + 1))
        elif component.names or parts[depth] == ONE:
            names = [name for name in overlay.children(node) if component.match(f"/{name}") is not None]
            todo += [(paths.join(path, f"/{name}"), depth + 1) for name in reversed(names)]
        else:
            todo.append((paths.join(path, component.top), depth + 1))
