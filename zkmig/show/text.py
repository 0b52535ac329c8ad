"""Text: the tree of changes in lines. Few of them, the largest subtrees first; or one for each change."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from typing import Any

from zkmig.counted import counted
from zkmig.model.acl import OPEN_ACL
from zkmig.model.znode import Kind
from zkmig.plan.plan import counts_text
from zkmig.show.before import Before
from zkmig.show.changes import CREATE, DELETE, Change, ChangeTree
from zkmig.show.values import Sight, acl_texts

LINES_MAX = 60  # of a tree that is not shown whole
CHILDREN_MAX = 12  # of one node in it
DATA_CHARS_MAX = 200
INDENT = "  "


def change_lines(
    tree: ChangeTree, sight: Sight, before: Before | None = None, with_data: bool = False
) -> Iterator[str]:
    """Every change on a line of its own, with its whole path."""
    for change in tree.changes():
        yield _described(change, change.path, "")
        if with_data:
            yield from _data_lines(change, sight, before, INDENT)


def tree_lines(tree: ChangeTree, sight: Sight, before: Before | None = None, with_data: bool = False) -> Iterator[str]:
    """The tree, indented, in about LINES_MAX lines. What is folded up is counted where it would stand."""
    unfolded = _unfolded(tree)
    waiting: list[tuple[int, int, str]] = [(0, 0, "")]  # node or -1, depth, text of what is no node
    while waiting:
        node, depth, text = waiting.pop()
        if text:
            yield INDENT * depth + text
            continue
        change = tree.change_at(node)
        yield _described(change, _shown_name(tree, node), INDENT * depth, _below(tree, node, change))
        if with_data:
            yield from _data_lines(change, sight, before, INDENT * (depth + 2))
        if node in unfolded:
            shown, others = unfolded[node]
            if others:
                waiting.append((-1, depth + 1, f"  ... and {others}"))
            waiting += [(child, depth + 1, "") for child in reversed(shown)]


def _unfolded(tree: ChangeTree) -> dict[int, tuple[list[int], str]]:
    """Of each node that is shown open: its children that are shown, and what of the others."""
    whole = len(tree) <= LINES_MAX
    found: dict[int, tuple[list[int], str]] = {}
    lines = 1
    waiting = [(0, 0)]
    while waiting:
        _, node = heapq.heappop(waiting)
        if tree.ends[node] == node + 1 or not (whole or _is_worth_opening(tree, node)):
            continue
        count = sum(1 for _ in tree.children(node))
        is_list = count > CHILDREN_MAX and tree.ends[node] == node + count + 1
        if is_list and node and not whole:
            continue  # a few of many leaves tell less than their number
        few = count if whole else min(count, CHILDREN_MAX)
        needed = few + (count > few)
        if not whole and lines + needed > LINES_MAX:
            continue
        lines += needed
        shown = sorted(heapq.nlargest(few, tree.children(node), key=lambda child: tree.ends[child] - child))
        found[node] = shown, _rest_text(tree, node, shown, count)
        for child in shown:
            heapq.heappush(waiting, (child - tree.ends[child], child))
    return found


def _is_worth_opening(tree: ChangeTree, node: int) -> bool:
    """Not what is all created or all deleted, unless there is nothing else."""
    return node == 0 or not (tree.is_whole(node, CREATE) or tree.is_whole(node, DELETE))


def _rest_text(tree: ChangeTree, node: int, shown: list[int], count: int) -> str:
    if count == len(shown):
        return ""
    held = set(shown)
    counts: dict[str, int] = {}
    for child in tree.children(node):
        if child not in held:
            for sort, number in tree.count_text(child).items():
                counts[sort] = counts.get(sort, 0) + number
    return f"{count - len(shown)} more, with {counts_text(counts)}"


def _shown_name(tree: ChangeTree, node: int) -> str:
    name = tree.name_at(node)
    return f"{name}/" if tree.ends[node] > node + 1 and not name.endswith("/") else name


def _below(tree: ChangeTree, node: int, change: Change) -> str:
    below = tree.ends[node] - node - 1
    if not below:
        return ""
    for whole, done in ((CREATE, "created"), (DELETE, "deleted")):
        if tree.is_whole(node, whole):
            size = f", {counted(tree.sizes[node], 'byte')}" if whole == CREATE else ""
            return f"all of it {done}: {below + 1} nodes{size}"
    counts = tree.count_text(node)
    for sort in change.sorts:
        counts[sort] -= 1
    return f"below: {counts_text(counts)}"


def _described(change: Change, name: str, indent: str, below: str = "") -> str:
    """A mark, the name, and what is done."""
    mark = "+" if change.create else "-" if change.delete else "~" if change.is_one else " "
    done = "; ".join([*_done(change), *([below] if below else [])])
    return f"{mark} {indent}{name}{INDENT if done else ''}{done}"


def _done(change: Change) -> Iterator[str]:
    if change.create:
        node = change.create
        yield _size(node.data)
        if node.kind is Kind.TTL:
            yield f"TTL {node.ttl_ms} ms"
        elif node.kind is not Kind.PERSISTENT:
            yield node.kind.name.lower()
        if node.acl != OPEN_ACL:
            yield f"acl {_acl(acl_texts(node.acl))}"
    if change.write:
        yield f"data {change.write.before_size} -> {_size(change.write.data)}"
    if change.raises:
        yield f"counter to {change.raises[-1].to}"
    if change.step:
        step = change.step
        if step.tighten is not None:
            yield f"acl before the commit {_acl(acl_texts(step.tighten))}"
        if step.is_pending_after_commit:
            yield f"acl after the commit {_acl(acl_texts(step.final))}"


def _size(data: bytes | None) -> str:
    return "null" if data is None else counted(len(data), "byte")


def _acl(entries: Iterable[str]) -> str:
    return ",".join(entries)


# -- data -------------------------------------------------------------------------------------------------------------


def _data_lines(change: Change, sight: Sight, before: Before | None, indent: str) -> Iterator[str]:
    if before is not None:
        node, fault = before.node(change)
        if fault:
            yield f"{indent}before: {fault}"
        elif node is not None and (change.write or change.delete):
            yield f"{indent}before: {value_text(sight.value(change.path, node.data))}"
    if change.create or change.write:
        yield f"{indent}after:  {value_text(sight.value(change.path, change.data_after))}"


def value_text(value: dict[str, Any]) -> str:
    """A value of `Sight.value` in one line, escaped by whoever prints it."""
    match value["is"]:
        case "text":
            shown, more = value["text"][:DATA_CHARS_MAX], len(value["text"]) > DATA_CHARS_MAX
            text = f'"{shown}"'
        case "base64":
            shown, more = value["base64"][:DATA_CHARS_MAX], len(value["base64"]) > DATA_CHARS_MAX
            text = f"base64 {shown}"
        case other:
            return f"({other}, {counted(value['bytes'], 'byte')})" if other != "null" else "null"
    return f"{text} (the begin of {value['bytes']} bytes)" if more or value.get("cut") else text
