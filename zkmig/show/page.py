"""The page: a plan as one HTML file that loads nothing and runs no script but its own.

What comes from servers stands in it as JSON in ASCII, in which no markup can be written, and is drawn as text alone.
Its Content-Security-Policy admits the one script and the one style by their hashes, no requests, no plug-ins, no forms,
and no markup made of text (Trusted Types): a fault in the script could show a wrong thing, and still run nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from zkmig import sealed
from zkmig.errors import BadInput
from zkmig.plan.plan import Plan
from zkmig.show.before import Before
from zkmig.show.changes import ChangeTree
from zkmig.show.document import batch_documents, change_document, rules_document
from zkmig.show.facts import HASH_CHARS, Fact, facts_of, facts_of_before
from zkmig.show.links import Links, links_in
from zkmig.show.values import Masks, Sight

VALUE_BYTES_MAX = 64 * 1024  # of one value in a page; the begin of a longer one is shown
DATA_BYTES_MAX = 64 * 1024 * 1024  # of all values; browsers get slow beyond
FAULTS_MAX = 100  # nodes named that are not what the plan was made for; each tells it besides
NODES_MAX = 500_000  # which is a file of some 100 MB without any data
_UNSAFE = {ord(char): f"\\u{ord(char):04x}" for char in "<>&"}


def write_page(
    path: str,
    plan: Plan,
    plan_hash: str,
    tree: ChangeTree,
    masks: Masks,
    with_data: bool,
    before: Before | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Write the file, complete or not at all, readable by its owner alone; returns what it holds.

    BadInput if it exists (unless `force`) or cannot be written, and for more nodes than a browser takes.
    """
    refuse_too_many(len(tree), path)
    sight = Sight(masks, with_data, VALUE_BYTES_MAX, DATA_BYTES_MAX)
    size = 0
    with sealed.whole_file(path, force) as file:
        for piece in _pieces(plan, plan_hash, tree, sight, before):
            size += file.write(piece.encode("ascii"))
    return {
        "bytes": size,
        "changes": tree.changed,
        "masked": sight.masked,
        "cut": sight.cut,
        "left_out": sight.beyond,
    }


def refuse_too_many(nodes: int, path: str) -> None:
    """BadInput for more nodes than a page can hold. path: of its file."""
    if nodes > NODES_MAX:
        what = f"{nodes} nodes are more than the {NODES_MAX} that a page can hold"
        raise BadInput(what, path, "show a part with --path, or print it without --html")


def _pieces(plan: Plan, plan_hash: str, tree: ChangeTree, sight: Sight, before: Before | None) -> Iterator[str]:
    style, script = _asset("page.css"), _asset("page.js")
    title = f"zkmig plan {plan_hash[:HASH_CHARS]}"
    head, _, tail = _asset("page.html").partition("@PLAN@")
    yield head.replace("@CSP@", _policy(style, script)).replace("@TITLE@", title).replace("@STYLE@", style)
    yield from _plan_json(plan, plan_hash, tree, sight, before)
    yield tail.replace("@SCRIPT@", script)


def _asset(name: str) -> str:
    return files("zkmig.show").joinpath(name).read_text("ascii")


def _policy(style: str, script: str) -> str:
    return "; ".join(
        (
            "default-src 'none'",
            f"style-src '{_source_hash(style)}'",
            f"script-src '{_source_hash(script)}'",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )


def _source_hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _plan_json(plan: Plan, plan_hash: str, tree: ChangeTree, sight: Sight, before: Before | None) -> Iterator[str]:
    """The plan as the script reads it, in pieces."""
    masks = sight.masks
    links = links_in(tree, masks, before) if sight.is_asked else Links()
    values = {
        "changed": tree.changed,
        "has_data": sight.is_asked,
        "references": len(plan.soundness.rules.references),
        "facts": [[fact.about, fact.text] for fact in _facts(plan, plan_hash, tree, masks, before)],
        "links": [[link.rule, link.source, link.target, link.is_new] for link in links.links],
        "links_hidden": links.hidden,
        "rules": rules_document(plan, masks),
    }
    yield "{"
    for name, value in values.items():
        yield f'"{name}":{_json(value)},'
    yield from _list("batches", batch_documents(plan))
    yield ","
    yield from _list("rows", _rows(tree, sight, before))
    yield "}"


def _facts(plan: Plan, plan_hash: str, tree: ChangeTree, masks: Masks, before: Before | None) -> Iterator[Fact]:
    yield from facts_of(plan, plan_hash, masks)
    if before is None:
        return
    found = list(facts_of_before(tree, before))
    yield from found[: FAULTS_MAX + 1]
    if len(found) > FAULTS_MAX + 1:
        yield Fact("before", f"and {len(found) - FAULTS_MAX - 1} more, as each of them says")


def _rows(tree: ChangeTree, sight: Sight, before: Before | None) -> Iterator[list[Any]]:
    """Of each node: its parent, its name, and what is done to it, if anything is."""
    for node in range(len(tree)):
        row: list[Any] = [tree.parents[node], tree.name_at(node)]
        if tree.is_changed(node):
            row.append(change_document(tree.change_at(node), sight, before))
        yield row


def _list(name: str, items: Iterator[Any]) -> Iterator[str]:
    yield f'"{name}":['
    for number, item in enumerate(items):
        yield f"{',' if number else ''}\n{_json(item)}"
    yield "]"


def _json(value: Any) -> str:
    """In ASCII, and without what could end a script or begin a comment in HTML."""
    return json.dumps(value, separators=(",", ":")).translate(_UNSAFE)
