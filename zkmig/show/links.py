"""Links: which nodes name which others, among those that a plan writes, by the references of its policy.

What a node names is its data: nothing is told of nodes whose data is masked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from zkmig.policy.rules import Reference
from zkmig.rules.references import links_of
from zkmig.show.before import Before
from zkmig.show.changes import Change, ChangeTree
from zkmig.show.values import Masks

TARGET_CHARS_MAX = 1024  # of a name that data holds: a longer one is not told


@dataclass(frozen=True, slots=True)
class NamedLink:
    """rule: name of the reference. is_new: False for one that the node held before, and no longer does."""

    rule: str
    source: str
    target: str
    is_new: bool = True


@dataclass(frozen=True, slots=True)
class Links:
    """links: of the nodes that may be told of; count: how many. hidden: how many nodes hold names that may not be."""

    links: tuple[NamedLink, ...] = ()
    count: int = 0
    hidden: int = 0


def links_in(tree: ChangeTree, masks: Masks, before: Before | None = None, named: bool = True) -> Links:
    """Links of the data that is written; with `before`, those too that go with what is replaced or deleted.

    named: False: they are only counted.
    """
    references = tree.plan.soundness.rules.references
    links: list[NamedLink] = []
    count = hidden = 0
    for change in tree.changes() if references else ():
        if masks.hides(change.path):
            hidden += any(rule.source.match(change.path) is not None for rule in references)
            continue
        is_new: dict[tuple[str, str], bool] = {}
        for rule in references:
            for target in _targets(rule, change.path, change.data_after):
                is_new[rule.name, target] = True
        for key in _held_before(references, change, before):
            is_new.setdefault(key, False)
        count += len(is_new)
        if named:
            links += [NamedLink(name, change.path, target, new) for (name, target), new in is_new.items()]
    return Links(tuple(links), count, hidden)


def _held_before(references: tuple[Reference, ...], change: Change, before: Before | None) -> Iterator[tuple[str, str]]:
    if before is None or not (change.write or change.delete):
        return
    node, fault = before.node(change)
    if node is None or fault:
        return
    for rule in references:
        for target in _targets(rule, change.path, node.data):
            yield rule.name, target


def _targets(rule: Reference, path: str, data: bytes | None) -> Iterator[str]:
    captures = rule.source.match(path)
    if captures is None or data is None:
        return
    for link in links_of(rule, path, captures, data):
        if link.target and len(link.target) <= TARGET_CHARS_MAX:
            yield link.target
