"""Links: what the rules tie together among the changes from one tree to another.

From both trees alone: a node is created where only the second has it, deleted where only the first has, and changed
where `written` says so. What has not changed is tied to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from zkmig.model.snapshot import Snapshot
from zkmig.policy.rules import MinChildren, NeverEmpty, Rules, Together
from zkmig.rules.references import LinksOf

Written = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Links:
    """before: (first, then), paths of changes of which the first goes before the other. groups: paths that change in
    one transaction, with the name of the rule. filled: parents that must not run short of children on the way."""

    before: tuple[tuple[str, str], ...] = ()
    groups: tuple[tuple[str, tuple[str, ...]], ...] = ()
    filled: frozenset[str] = frozenset()


def links_between(rules: Rules, links_before: LinksOf | None, links_after: LinksOf, written: Written) -> Links:
    """What is tied together on the way from one tree (None: nothing) to another, given by their links. written: whether
    the data of a node that both have changes."""
    before = links_before.tree if links_before is not None else None
    change = _Change(before, links_after.tree, written)
    pairs = (*_referents_first(rules, change, links_after), *_referrers_gone_first(rules, change, links_before))
    groups = (*_together(rules, change), *_never_short(rules, change))
    return Links(tuple(dict.fromkeys(pairs)), groups, frozenset(_filled(rules, before)))


@dataclass(frozen=True, slots=True)
class _Change:
    before: Snapshot | None
    after: Snapshot
    written: Written

    def was(self, path: str) -> bool:
        return self.before is not None and path in self.before

    def is_created(self, path: str) -> bool:
        return not self.was(path) and path in self.after

    def is_deleted(self, path: str) -> bool:
        return self.was(path) and path not in self.after

    def is_touched(self, path: str) -> bool:
        return (path in self.after) != self.was(path) or self.written(path)


def _referents_first(rules: Rules, change: _Change, links: LinksOf) -> Iterator[tuple[str, str]]:
    for rule in rules.references:
        for _, link, is_there in links[rule]:
            source, target = link.source, link.target
            if is_there and not change.was(target) and (not change.was(source) or change.written(source)):
                yield target, source


def _referrers_gone_first(rules: Rules, change: _Change, links: LinksOf | None) -> Iterator[tuple[str, str]]:
    if links is None:
        return
    for rule in rules.references:
        for _, link, was_there in links[rule]:
            source, target = link.source, link.target
            if was_there and target not in change.after and (source not in change.after or change.written(source)):
                yield source, target


def _together(rules: Rules, change: _Change) -> Iterator[tuple[str, tuple[str, ...]]]:
    for rule in rules.together:
        groups: dict[tuple[tuple[str, str], ...], dict[str, None]] = {}
        for path, key in _members(rule, change):
            groups.setdefault(key, {})[path] = None
        for group in groups.values():
            if len(group) > 1:
                yield rule.name, tuple(group)


def _members(rule: Together, change: _Change) -> Iterator[tuple[str, tuple[tuple[str, str], ...]]]:
    """Changed nodes that match, with what those have in common that belong together: the captures of all patterns."""
    common = frozenset.intersection(*(pattern.names for pattern in rule.patterns))
    for tree in (change.before, change.after):
        for pattern in rule.patterns if tree is not None else ():
            assert tree is not None
            for node, captures in pattern.find(tree):
                path = tree.path_at(node)
                if change.is_touched(path):
                    yield path, tuple(sorted((name, captures[name]) for name in common))


def _never_short(rules: Rules, change: _Change) -> Iterator[tuple[str, tuple[str, ...]]]:
    """A node that has to have children, and comes or goes: it does so together with as many as it has to have."""
    for rule in rules.guardrails:
        if not isinstance(rule, MinChildren) or not rule.count:
            continue
        for node, _ in rule.pattern.find(change.after):
            path = change.after.path_at(node)
            if change.is_created(path):
                yield rule.name, (path, *_children(change.after, node)[: rule.count])
        if change.before is None:
            continue
        for node, _ in rule.pattern.find(change.before):
            path = change.before.path_at(node)
            if change.is_deleted(path):
                yield rule.name, (path, *_children(change.before, node)[: rule.count])


def _children(tree: Snapshot, node: int) -> list[str]:
    return [tree.path_at(child) for child in tree.children_at(node)]


def _filled(rules: Rules, before: Snapshot | None) -> Iterator[str]:
    if before is None:
        return
    for rule in rules.guardrails:
        if isinstance(rule, MinChildren | NeverEmpty):
            for node, _ in rule.pattern.find(before):
                yield before.path_at(node)
