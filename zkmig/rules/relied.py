"""Relied on: the nodes that a sound verdict hangs on, so that the commit can make sure that they still stand, and where
nothing hangs on what is there.

A verdict is about a tree that was read; others go on writing. What it relies on can be checked in the transaction that
commits: that a node is there (ANY), or is there in the version that was judged. That something has been *added* no
check can tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import assert_never

from zkmig.model import path as paths
from zkmig.model.snapshot import Snapshot
from zkmig.policy.captures import CapturePattern
from zkmig.policy.rules import (
    JsonData,
    MaxDeletions,
    MaxSize,
    MinChildren,
    NeverEmpty,
    PythonCheck,
    Reference,
    Rule,
    Rules,
    SameCount,
    Together,
    Unchanged,
)
from zkmig.rules.references import find_links

ANY = -1  # a version that any node of that path has


Relied = tuple[str, int]  # a path, and the version that it must have


def relied_on(rules: Rules, tree: Snapshot, is_strict: bool = True) -> Iterator[Relied]:
    """Path and version of nodes of a tree that was found sound; ANY where only its being there matters. A path may come
    twice. What a check in Python looked at nobody knows.

    The rules take turns: where a frame holds fewer checks than this yields, one rule of many nodes leaves room for the
    others.
    is_strict: False takes a node's size and form as they were judged, for nodes that their owners write all the time:
    these rules say nothing about any other node, so that no plan can be to blame for what comes next.
    """
    return _in_turns(_of_rule(rule, tree, is_strict) for rule in rules)


def _in_turns(rows: Iterable[Iterator[Relied]]) -> Iterator[Relied]:
    left = list(rows)
    while left:
        going = []
        for row in left:
            first = next(row, None)
            if first is not None:
                yield first
                going.append(row)
        left = going


def _of_rule(rule: Rule, tree: Snapshot, is_strict: bool) -> Iterator[Relied]:
    match rule:
        case Reference():
            yield from _of_reference(rule, tree)
        case MaxDeletions() | SameCount():
            yield from _there(rule.pattern, tree)
        case MinChildren():
            yield from _with_children(tree, rule, rule.count)
        case NeverEmpty():
            yield from _with_children(tree, rule, 1)
        case MaxSize() | JsonData() if not is_strict:
            yield from _there(rule.pattern, tree)
        case Unchanged() | MaxSize() | JsonData():
            yield from (_as_judged(tree, node) for node, _ in rule.pattern.find(tree))
        case Together() | PythonCheck():
            return
        case _:
            assert_never(rule)


def _there(pattern: CapturePattern, tree: Snapshot) -> Iterator[Relied]:
    return ((tree.path_at(node), ANY) for node, _ in pattern.find(tree))


def _of_reference(rule: Reference, tree: Snapshot) -> Iterator[Relied]:
    if not rule.required:
        return
    for node, link in find_links(rule, tree):
        yield _as_judged(tree, node)
        if link.target in tree:
            yield link.target, ANY


def _with_children(tree: Snapshot, rule: MinChildren | NeverEmpty, count: int) -> Iterator[Relied]:
    for node, _ in rule.pattern.find(tree):
        yield tree.path_at(node), ANY
        for _, child in zip(range(count), tree.children_at(node), strict=False):
            yield tree.path_at(child), ANY


def _as_judged(tree: Snapshot, node: int) -> Relied:
    return tree.path_at(node), tree.columns.stats.version[node]


def may_matter(rules: Rules, path: str) -> bool:
    """Whether what lies at a path and below it can make a difference to a verdict. What a check in Python looks at
    nobody knows; what changes together no tree tells."""
    for rule in rules:
        match rule:
            case PythonCheck():
                return True
            case Together():
                continue
            case Reference(source=pattern, target=target):
                if pattern.may_reach(path) or paths.overlap(target.top, path):
                    return True
            case MinChildren(pattern=pattern) | NeverEmpty(pattern=pattern):
                if pattern.may_reach(path) or pattern.match(paths.parent(path)) is not None:
                    return True
            case _:
                if rule.pattern.may_reach(path):
                    return True
    return False
