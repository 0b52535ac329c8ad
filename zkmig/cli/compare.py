"""`zkmig snapshot`, `diff` and `verify`: trees as they are, and what is different between two."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any, assert_never

import click

from zkmig.api import trees
from zkmig.changes import (
    Add,
    Change,
    ChangeAcl,
    ChangeCounter,
    ChangeData,
    ChangeKind,
    CounterHigher,
    Delete,
)
from zkmig.cli.output import check_output
from zkmig.cli.policy import include_option, policy_options, say_left_out
from zkmig.cli.run import (
    BAD_INPUT,
    FUZZY,
    STOPPED,
    UNREACHABLE,
    Run,
    command_options,
    consistent_option,
    control_option,
    exclude_option,
    exit_codes,
)
from zkmig.counted import counted
from zkmig.diff import Diff
from zkmig.errors import EXIT_DIFFERENT, EXIT_DONE
from zkmig.model.snapshot import Snapshot
from zkmig.policy.policy import Policy
from zkmig.source.location import parse

DIFFERENCES_NAMED = 20  # by verify

_EXACT_COUNTERS = click.option(
    "--exact-counters", is_flag=True, help="Sequence counters that are higher on B count as a difference."
)
_CODES = {"0": "the same", "1": "different", **BAD_INPUT, **UNREACHABLE, **STOPPED}


@click.command(epilog=exit_codes({"0": "saved, whatever it holds", **BAD_INPUT, **FUZZY, **UNREACHABLE, **STOPPED}))
@click.argument("location")
@click.option("-o", "--output", required=True, metavar="FILE", help="The snapshot file to write.")
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@consistent_option
@include_option
@exclude_option
@control_option
@command_options
def snapshot(
    run: Run,
    location: str,
    output: str,
    force: bool,
    require_consistent: bool,
    includes: tuple[str, ...],
    excludes: tuple[str, ...],
    control: str,
) -> None:
    """Save the tree at LOCATION, with data, ACLs, stats and sequence counters, into a file.

    The tree is watched while it is read, and what others change meanwhile is read again, until all of it is one state.
    Where they write too fast for that, it says so (fuzzy, of several states).
    The file is readable by its owner alone: it holds what ACLs protect. It remembers --include and --exclude: what they
    leave out is never taken for absent.
    """
    parse(location)
    check_output(output, force)
    with run.progress() as progress:
        tree = trees.read(
            location,
            includes=includes,
            excludes=excludes,
            control=control,
            require_consistent=require_consistent,
            progress=progress.read,
            **run.session,
        )
    trees.save_snapshot(tree, output, force)
    run.document({"file": output, **tree_document(tree, hashes=True), "reason": tree.consistency.reason})
    run.line(f"{output}: {counted(len(tree), 'znode')} of {tree.provenance.location}")
    seen = f"zxids {tree.zxid_first:#x} to {tree.zxid_last:#x}"
    run.line(f"state     {f'fuzzy, of {seen}' if tree.is_fuzzy else 'one state'}: {tree.consistency.reason}")
    run.line(f"tree      {tree.tree_hash}")
    run.line(f"counters  {tree.counter_hash}")
    if tree.is_fuzzy:
        run.say(f"warning: {output} is fuzzy, a mix of states ({seen}); --require-consistent makes that an error")
    if tree.ephemerals:
        run.line(f"of them   {counted(tree.ephemerals, 'ephemeral')}, in the file and in no hash")


def tree_document(tree: Snapshot, hashes: bool = False) -> dict[str, Any]:
    """What a tree is, for --json."""
    return {
        "location": tree.provenance.location,
        "root": tree.root,
        "znodes": len(tree),
        "ephemerals": tree.ephemerals,
        "fuzzy": tree.is_fuzzy,
        "zxid_first": tree.zxid_first,
        "zxid_last": tree.zxid_last,
        **({"tree_hash": tree.tree_hash, "counter_hash": tree.counter_hash} if hashes else {}),
    }


@click.command(epilog=exit_codes(_CODES))
@click.argument("a")
@click.argument("b")
@_EXACT_COUNTERS
@exclude_option
@control_option
@command_options
@policy_options()
def diff(
    run: Run, a: str, b: str, exact_counters: bool, excludes: tuple[str, ...], control: str, policy: Policy
) -> int:
    """Name every difference between A and B: what would have to change on B so that it equals A.

    \b
    + PATH                 only A has it
    ~ PATH data            its data differ; likewise acl, kind
    ~ PATH counter 3 -> 9  its sequence counter is 3 on B, 9 on A
    - PATH                 only B has it

    Paths are relative to the roots, "/" is the root itself. Ephemerals are left out. A counter that is higher on B is a
    note, since nothing lowers it. A and B are zk://... or snapshot files; B's root may be absent.
    """
    parse(a), parse(b)
    with run.progress() as progress:
        compared = trees.verify(
            a,
            b,
            policy=policy,
            excludes=excludes,
            control=control,
            by_hash=False,
            progress=progress.read,
            **run.session,
        )
    found = compared.diff
    assert found is not None
    differs = found.differs(exact_counters)
    items: Iterator[Change | CounterHigher] = chain(found, found.notes if exact_counters else ())
    if run.as_json:
        run.document({**_diff_document(found, differs, exact_counters), "not_carried": compared.left_out.document()})
    else:
        for item in items:
            run.line(difference_line(item))
    _say_compared(run, found, exact_counters)
    say_left_out(run, compared.left_out)
    return EXIT_DIFFERENT if differs else EXIT_DONE


def difference_line(item: Change | CounterHigher) -> str:
    """A difference as a line: what, where, never data."""
    path = item.path or "/"
    match item:
        case Add():
            return f"+ {path}"
        case Delete():
            return f"- {path}"
        case ChangeData():
            return f"~ {path} data"
        case ChangeAcl():
            return f"~ {path} acl"
        case ChangeKind():
            return f"~ {path} kind {item.before.kind.name.lower()} -> {item.after.kind.name.lower()}"
        case ChangeCounter():
            return f"~ {path} counter {item.before} -> {item.after}"
        case CounterHigher():
            return f"~ {path} counter {item.target} -> {item.source} (nothing lowers it)"
        case _:
            assert_never(item)


_SORTS = {Add: "add", Delete: "delete", ChangeData: "data", ChangeAcl: "acl", ChangeKind: "kind"}


def _difference(item: Change | CounterHigher) -> dict[str, Any]:
    path = item.path or "/"
    match item:
        case ChangeCounter():
            return {"change": "counter", "path": path, "before": item.before, "after": item.after}
        case CounterHigher():
            return {"change": "counter", "path": path, "before": item.target, "after": item.source}
        case _:
            return {"change": _SORTS[type(item)], "path": path}


def _diff_document(found: Diff, differs: bool, exact_counters: bool) -> dict[str, Any]:
    notes = [_difference(note) for note in found.notes]
    changes = [_difference(change) for change in found]
    return {
        "same": not differs,
        "source": tree_document(found.source),
        "target": None if found.target is None else tree_document(found.target),
        "compared": list(found.compared),
        "excluded": list(found.excluded),
        "counts": found.counts._asdict(),
        "changes": changes + notes if exact_counters else changes,
        "notes": [] if exact_counters else notes,
        "ephemerals_source": found.ephemerals_source,
        "ephemerals_target": found.ephemerals_target,
    }


def _say_compared(run: Run, found: Diff, exact_counters: bool) -> None:
    for note in [] if exact_counters else found.notes[:DIFFERENCES_NAMED]:
        run.say(f"note: {note.path or '/'}: its sequence counter is higher on B ({note.target}, on A {note.source})")
    for name, tree in (("A", found.source), ("B", found.target)):
        if tree is None:
            run.say(f"{name} is not there: its root does not exist")
        elif tree.is_fuzzy:
            run.say(f"{name} is fuzzy: {tree.consistency.reason}")
    run.say(found.summary())


@click.command(epilog=exit_codes(_CODES))
@click.argument("a")
@click.argument("b")
@_EXACT_COUNTERS
@exclude_option
@control_option
@command_options
@policy_options()
def verify(
    run: Run, a: str, b: str, exact_counters: bool, excludes: tuple[str, ...], control: str, policy: Policy
) -> int:
    """Tell whether A and B are the same: data, ACLs and sequence counters of every node, the root included.

    Hashes are compared first; where they differ, the first differences are named as `zkmig diff` does. Kinds are
    compared only where both sides know them; ephemerals, times and versions are not compared.
    """
    parse(a), parse(b)
    with run.progress() as progress:
        found = trees.verify(
            a, b, policy=policy, excludes=excludes, control=control, progress=progress.read, **run.session
        )
    differs = found.differs(exact_counters)
    run.document(
        {
            "same": not differs,
            "by": "hash" if found.diff is None else "diff",
            "source": tree_document(found.source, hashes=True),
            "target": None if found.target is None else tree_document(found.target, hashes=True),
            "compared": list(_compared(found)),
            "counts": None if found.diff is None else found.diff.counts._asdict(),
            "differences": [_difference(item) for item in _first(found, exact_counters)],
            "not_carried": found.left_out.document(),
        }
    )
    for item in _first(found, exact_counters):
        run.line(difference_line(item))
    if found.diff is not None:
        more = len(found.diff) + (len(found.diff.notes) if exact_counters else 0) - DIFFERENCES_NAMED
        if more > 0:
            run.line(f"... and {more} more, which zkmig diff names")
    if found.diff is not None:
        _say_compared(run, found.diff, exact_counters)
    say_left_out(run, found.left_out)
    run.line(
        "different" if differs else f"the same: {counted(len(found.source), 'znode')}, tree {found.source.tree_hash}"
    )
    return EXIT_DIFFERENT if differs else EXIT_DONE


def _first(found: trees.Verification, exact_counters: bool) -> Iterator[Change | CounterHigher]:
    if found.diff is None:
        return iter(())
    return islice(chain(found.diff, found.diff.notes if exact_counters else ()), DIFFERENCES_NAMED)


def _compared(found: trees.Verification) -> Sequence[str]:
    # A hash covers all there is.
    return ("data", "acl", "kind", "counter") if found.diff is None else found.diff.compared
