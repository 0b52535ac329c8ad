"""`zkmig show`: a plan as people read it, as JSON, or as one page for a browser."""

from __future__ import annotations

from itertools import chain
from typing import Any

import click

from zkmig.api import migrate
from zkmig.api.showing import read_before
from zkmig.apply.engine import SealedPlan
from zkmig.cli.output import check_output
from zkmig.cli.plan import summary_document
from zkmig.cli.run import BAD_INPUT, STOPPED, Run, command_options, exit_codes
from zkmig.errors import BadInput
from zkmig.model import path as paths
from zkmig.model.patterns import parse_path
from zkmig.show.before import Before
from zkmig.show.changes import ChangeTree, change_tree, changed_at_least
from zkmig.show.document import batch_documents, change_document, rules_document
from zkmig.show.facts import HASH_CHARS, facts_of, facts_of_before
from zkmig.show.links import links_in
from zkmig.show.outside import outside_of
from zkmig.show.page import refuse_too_many, write_page
from zkmig.show.text import change_lines, tree_lines
from zkmig.show.values import Masks, Sight
from zkmig.show.watches import watches_of
from zkmig.source.location import parse

NOTES_SHOWN = 20  # of one sort, unless all is asked for
_LABEL_CHARS = 10


@click.command(
    epilog=exit_codes({"0": "shown", **BAD_INPUT, "6": "--before is unreachable, or may not be read", **STOPPED})
)
@click.argument("plan_file", metavar="PLAN")
@click.option("--all", "show_all", is_flag=True, help="Every change on a line of its own, with its whole path.")
@click.option("--path", metavar="PATH", help="Only the changes at and below this absolute path.")
@click.option(
    "--data/--no-data",
    default=None,
    help="Show the data of znodes, which only a page does without being asked; or leave it out there too.",
)
@click.option(
    "--mask",
    "masks",
    multiple=True,
    metavar="PATTERN",
    help="Do not show the data of nodes that match, besides those that the plan's policy masks. May be given several "
    "times.",
)
@click.option(
    "--before",
    metavar="LOCATION",
    help="The tree that the plan changes, zk://... or a snapshot, to show what stands there now. The plan itself knows "
    "only versions and lengths.",
)
@click.option("--html", metavar="FILE", help="Write one page for a browser: complete in itself, loads nothing.")
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@command_options
def show(
    run: Run,
    plan_file: str,
    show_all: bool,
    path: str | None,
    data: bool | None,
    masks: tuple[str, ...],
    before: str | None,
    html: str | None,
    force: bool,
) -> None:
    """Show what a plan would do: the tree of changes with counts, sizes, batches, watches and rules.

    \b
    + name   is created
    ~ name   is changed: its data, its sequence counter, its ACL
    - name   is deleted

    A large tree is folded up to a page of lines, its largest parts first; --all names every change, --path looks into a
    part. Data is shown only with --data, or in a page; nodes that the policy masks never show theirs. No server is
    asked, unless --before names one.
    """
    if html is not None:
        if show_all:
            raise click.UsageError("--all is for text: a page holds every change")
        check_output(html, force)
    elif force:
        raise click.UsageError("--force is for --html")
    below = parse_path(path, "--path") if path is not None else "/"
    if before is not None:
        parse(before)
    sealed = migrate.load_plan(plan_file)
    plan = sealed.plan
    if not paths.overlap(below, plan.target.root):
        raise BadInput("the plan changes nothing there", below, f"name a path at or below {plan.target.root}")
    hidden = Masks.of((*plan.masks, *masks))
    if html is not None:
        refuse_too_many(changed_at_least(plan, below), html)  # before the tree, which takes long for many
    tree = change_tree(plan, below)
    there = _before(run, tree, before) if before is not None else None
    if html is not None:
        _page(run, sealed, tree, hidden, data is not False, there, html, force)
        return
    if run.as_json:
        sight = Sight(hidden, bool(data), None)
        changes = ({"path": change.path, **change_document(change, sight, there)} for change in tree.changes())
        run.long_document(_document(plan_file, sealed, tree, hidden, bool(data), there), "changes", changes)
        return
    _text(run, sealed, tree, Sight(hidden, bool(data), None), there, show_all, bool(data))


def _before(run: Run, tree: ChangeTree, location: str) -> Before:
    with run.progress() as progress:
        return read_before(location, tree, progress=progress.read, **run.session)


def _text(
    run: Run, sealed: SealedPlan, tree: ChangeTree, sight: Sight, before: Before | None, show_all: bool, data: bool
) -> None:
    shown: dict[str, int] = {}
    last = ""
    facts = facts_of(sealed.plan, sealed.hash[:HASH_CHARS], sight.masks)
    for fact in chain(facts, facts_of_before(tree, before) if before is not None else ()):
        last = fact.about or last
        shown[last] = shown.get(last, 0) + 1
        if show_all or shown[last] <= NOTES_SHOWN:
            run.line(f"{fact.about:<{_LABEL_CHARS}}{fact.text}")
    for about, count in shown.items():
        if not show_all and count > NOTES_SHOWN:
            run.line(f"{about:<{_LABEL_CHARS}}and {count - NOTES_SHOWN} more (--all)")
    if tree.changed:
        run.line("")
        for line in (change_lines if show_all else tree_lines)(tree, sight, before, data):
            run.line(line)
    elif not sealed.plan.is_empty:
        run.line("")
        run.line(f"nothing changes at or below {tree.path_at(0)}")


def _document(
    name: str, sealed: SealedPlan, tree: ChangeTree, masks: Masks, data: bool, before: Before | None
) -> dict[str, Any]:
    """All but the changes themselves."""
    plan = sealed.plan
    links = links_in(tree, masks, before, named=data)
    return {
        "plan": name,
        "plan_hash": sealed.hash,
        **summary_document(plan),
        "masks": [pattern.text for pattern in masks.patterns],
        "single_shot_bytes": plan.single_shot_bytes,
        "batch_list": list(batch_documents(plan)),
        "watches": watches_of(plan.ordered).document(),
        "outside": [outside.document() for outside in outside_of(plan)],
        "rules": rules_document(plan, masks),
        # What a node names is its data.
        "references": {
            "count": links.count,
            "hidden": links.hidden,
            "links": [
                {"rule": link.rule, "from": link.source, "to": link.target, "new": link.is_new} for link in links.links
            ]
            if data
            else None,
        },
        "changed": tree.changed,
    }


def _page(
    run: Run,
    sealed: SealedPlan,
    tree: ChangeTree,
    masks: Masks,
    data: bool,
    before: Before | None,
    file: str,
    force: bool,
) -> None:
    page = write_page(file, sealed.plan, sealed.hash, tree, masks, data, before, force)
    run.document({"page": file, **page})
    run.line(f"{file}: {page['changes']} changes, {page['bytes']} bytes")
    for count, what in (
        (page["masked"], "values are masked"),
        (page["cut"], "values are cut off"),
        (page["left_out"], "values are left out, since the page would be too large"),
    ):
        if count:
            run.say(f"note: {count} {what}")
