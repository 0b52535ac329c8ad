"""References, judged: which names the data of a node holds, and whether there is a node for each.

Besides the verdict they give the links of a tree, from which the order of a plan is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from zkmig.errors import BadInput
from zkmig.model import path as paths
from zkmig.model.snapshot import Snapshot
from zkmig.policy.captures import Captures
from zkmig.policy.jsondata import NotJson, parsed, path_into
from zkmig.policy.rules import Reference
from zkmig.rules.violation import Violation, told

BLANKS = " \t\r\n"  # that `strip` takes off; others, as U+00A0, may be part of a name


class Link(NamedTuple):
    """One name in the data of one node. target: the path it leads to; "" where it leads to none, and fault says why.

    number: of the name among those in the data, from 1, where there may be several; else 0.
    """

    source: str
    target: str
    fault: str = ""
    number: int = 0


def links_of(rule: Reference, path: str, captures: Captures, data: bytes | None) -> Iterator[Link]:
    """What the data of a node that matches names."""
    is_one = rule.json is None or path_into(rule.json).is_singular
    for number, name in enumerate(_whole(rule, data) if rule.json is None else _within(rule, rule.json, data), 1):
        if isinstance(name, _Fault):
            yield Link(path, "", name.text)
            continue
        place = 0 if is_one else number
        try:
            yield Link(path, rule.target.fill(captures, name), "", place)
        except BadInput:
            blanks = "" if name == name.strip(BLANKS) else ": blanks around it, which strip = true takes off"
            its = f"name {place} in it" if place else "its name"
            yield Link(path, "", f"{its} makes no path of {rule.target}{blanks}")


def find_links(rule: Reference, snapshot: Snapshot) -> Iterator[tuple[int, Link]]:
    """Every link of a tree, with the index of the node that holds it."""
    for node, captures in rule.source.find(snapshot):
        for link in links_of(rule, snapshot.path_at(node), captures, snapshot.data_at(node)):
            yield node, link


class LinksOf:
    """The links of a tree, found once for all who ask for them: to judge it, and to order what leads to it."""

    def __init__(self, tree: Snapshot) -> None:
        self.tree = tree
        self._found: dict[Reference, list[tuple[int, Link, bool]]] = {}

    def __getitem__(self, rule: Reference) -> list[tuple[int, Link, bool]]:
        """The node that holds it, the link, and whether what it leads to is there."""
        if rule not in self._found:
            found = find_links(rule, self.tree)
            self._found[rule] = [(node, link, not link.fault and link.target in self.tree) for node, link in found]
        return self._found[rule]


def judged(rule: Reference, links: LinksOf) -> Iterator[Violation]:
    """What is against the tree: nothing, for a reference that is not required."""
    if not rule.required:
        return
    after = links.tree
    for node, link, is_there in links[rule]:
        if is_there:
            continue
        what = link.fault
        if not what:
            # The path would tell the data; a plan that deletes it names it itself.
            was_read = after.scope.covers(link.target) and _is_included(after, link.target)
            why = "is not there" if was_read else "was not read, so that nobody can tell whether it is there"
            what = f"{_it(link)} a node of {rule.target} that {why}"
        yield Violation(rule.name, link.source, what, told(after.data_at(node)), target=link.target)


def _it(link: Link) -> str:
    """Which of the names, since its text would tell the data."""
    return f"name {link.number} in it is that of" if link.number else "it names"


@dataclass(frozen=True, slots=True)
class _Fault:
    text: str


def _within(rule: Reference, json_path: str, data: bytes | None) -> Sequence[str | _Fault]:
    path = path_into(json_path)
    names: list[str | _Fault] = []
    try:
        for found in path.find(parsed(data)):
            if isinstance(found, bool) or not isinstance(found, str | int):
                names.append(_Fault(f"{json_path} leads to what is no name"))
            else:
                name = str(found)
                names.append(name.strip(BLANKS) if rule.strip else name)
    except NotJson as error:
        return [*names, _Fault(str(error))]
    if not names and path.is_singular:  # a list may be empty; what leads to one place should lead somewhere
        return [_Fault(f"there is nothing at {json_path}")]
    return names


def _whole(rule: Reference, data: bytes | None) -> Sequence[str | _Fault]:
    try:
        text = (data or b"").decode()
    except UnicodeDecodeError:
        return (_Fault("its data is no text"),)
    text = text.strip(BLANKS) if rule.strip else text
    return (text or _Fault("it has no data"),)


def _is_included(snapshot: Snapshot, path: str) -> bool:
    includes = snapshot.scope.includes
    return not includes or any(paths.contains(each, path) for each in includes)
