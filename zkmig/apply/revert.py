"""Revert: the plan that takes a committed epoch back, made from the undo that is kept.

What the epoch has written is compared with what is there: where others have written since, nothing is planned, and the
paths are named. Else two trees are made of just those paths (and what connects them): as they are, and as they were
before; the plan leads from the one to the other. It is applied as an epoch of its own, so it is drained, verified,
committed, resumed and rolled back as any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from zkmig.apply.engine import WAIT_FOR_HOLD
from zkmig.apply.left import Left, left_by, why_not
from zkmig.apply.masking import kept_masks
from zkmig.apply.prune import check_at_rest
from zkmig.epoch.attempts import Attempt, Fate, home_of, read_attempts, rolled_back_since
from zkmig.epoch.control import ControlPaths, read_record
from zkmig.epoch.journal import Action, Journal, JournalMissing, load
from zkmig.epoch.record import Record
from zkmig.errors import Held, Refused
from zkmig.model import path as paths
from zkmig.model.scope import Scope
from zkmig.model.snapshot import Consistency, Provenance, Snapshot
from zkmig.model.staging import SnapshotBuilder
from zkmig.model.znode import Kind, Znode
from zkmig.plan.make import TargetScope
from zkmig.source.bulk import NodeRead, read_acls, read_nodes
from zkmig.wire.client import Client

NAMED_MAX = 5
READ_ROUNDS = 3
INSTEAD = "plan the way back from a snapshot instead"
NOTE = "sequence counters stay where they are: nothing lowers them"


class WrittenSince(Refused):
    """Others have written paths of the epoch since its commit. paths: all of them, with the reason."""

    def __init__(self, epoch: int, found: Sequence[tuple[str, str]], hint: str) -> None:
        named = ", ".join(f"{path} ({reason})" for path, reason in found[:NAMED_MAX])
        more = f" and {len(found) - NAMED_MAX} more" if len(found) > NAMED_MAX else ""
        super().__init__(f"others have written since epoch {epoch} was committed: {named}{more}", "", hint)
        self.paths = tuple(found)


@dataclass(frozen=True, slots=True)
class Images:
    """now: what is there, of the paths of the epoch. before: the same as it was before it. scope: to pin the plan.
    masks: of the plan that the epoch was made by, for this one too."""

    epoch: int
    now: Snapshot
    before: Snapshot
    scope: TargetScope
    record: Record
    masks: tuple[str, ...]


def images(client: Client, names: ControlPaths, epoch: int, location: str) -> Images:
    """The trees between which the plan leads that takes `epoch` back.

    Refused: it is not the last committed one, its undo was pruned, it made the tree, or something is under way, held or
    pending; WrittenSince: others have written there.
    """
    record, _ = read_record(client, names)
    attempts = read_attempts(client, names, record)
    attempt = _attempt_of(record, names, epoch, attempts)
    place = home_of(names, attempt.note)
    try:
        _, journal = load(client, place, attempt.note.manifest_hash)
    except JournalMissing as error:
        raise _pruned(epoch, place.home) from error
    later = [one for one in attempts if one.czxid > attempt.mzxid]
    left = left_by(client, names, attempt, journal, rolled_back_since(attempts, attempt))
    live = _read(client, left)
    hint = "look at them; the way back is then a plan from a snapshot"
    if any(one.fate is Fate.ROLLED_BACK and not one.is_kept for one in later):
        hint += "; an attempt that was rolled back since counts as others here, as its journal is gone"
    _refuse_foreign(epoch, left, journal, live, hint)
    top = _top(record, epoch, journal)
    live |= _connecting(client, left, top, live)
    now = {path: one.node for path, one in live.items()}
    for entry in journal.entries:
        if entry.action is Action.CREATED and entry.path in now:
            now[entry.path] = now[entry.path]._replace(kind=entry.kind, ttl_ms=entry.ttl_ms)
    before = _before(journal, now)
    if before == now:
        raise _nothing(epoch, record)
    zxid = max(node.stat.mzxid for node in now.values())
    consistency = Consistency(False, zxid, zxid, f"each path is as epoch {epoch} has left it")
    return Images(
        epoch,
        _snapshot(now, top, location, consistency),
        _snapshot(before, top, f"{location} before epoch {epoch}", consistency),
        TargetScope(names.scope, names.control, record.incarnation, record.epoch),
        record,
        kept_masks(attempt.note),
    )


def _attempt_of(record: Record, names: ControlPaths, epoch: int, attempts: Sequence[Attempt]) -> Attempt:
    check_at_rest(record, names, "revert")
    where = names.record
    if record.held is not None:
        raise Held(f"the scope is {record.held.told()}", where, WAIT_FOR_HOLD)
    if record.pending is not None:
        raise Refused(f"{record.pending} are pending", where, "run resume first")
    if record.epoch == 0:
        raise Refused("no epoch has been committed yet, so there is none to take back", where)
    last = next((a for a in attempts if a.fate is Fate.COMMITTED and a.note.epoch == record.epoch), None)
    if epoch != record.epoch:
        did = ", which took it back" if last is not None and last.note.reverts == epoch else ""
        raise Refused(
            f"epoch {epoch} is not the last committed one, which is {record.epoch}{did}",
            where,
            f"only the last one can be taken back: --epoch {record.epoch}",
        )
    if last is None:
        raise _pruned(epoch, names.epochs)
    home = home_of(names, last.note).home
    if last.note.fate is Fate.UNKNOWN and not last.children:
        raise Refused(f"what is kept of epoch {epoch} cannot be read", home, INSTEAD)
    if not last.is_kept:
        raise _pruned(epoch, home)
    if not last.note.manifest_hash:
        what = f"epoch {epoch} was committed by an older zkmig, which has not noted what pins its undo"
        raise Refused(what, home, INSTEAD)
    if last.note.fate is not Fate.COMMITTED:
        what = f"the commit of epoch {epoch} could not be noted, so that it is not known which nodes it has created"
        raise Refused(what, home, INSTEAD)
    if last.note.base == "EMPTY":
        raise Refused(f"before epoch {epoch} there was no tree, so there is none to go back to", where)
    return last


def _pruned(epoch: int, where: str) -> Refused:
    return Refused(f"the undo of epoch {epoch} was pruned", where, INSTEAD)


def _nothing(epoch: int, record: Record) -> Refused:
    return Refused(f"epoch {epoch} has changed nothing that undo could bring back", record.root, NOTE)


# -- what is there ----------------------------------------------------------------------------------------------------


class Live(NamedTuple):
    """A node as it is, and the names of its children."""

    node: Znode
    children: tuple[str, ...]


def _read(client: Client, wanted: Iterable[str]) -> dict[str, Live]:
    """What is there, each node and its ACL of one moment."""
    found: dict[str, Live] = {}
    left = list(wanted)
    for _ in range(READ_ROUNDS):
        reads = [node for node in read_nodes(client, left, children=True) if isinstance(node, NodeRead)]
        left = []
        for read, acl in zip(reads, read_acls(client, [read.path for read in reads]), strict=True):
            if acl is not None and (acl.stat.czxid, acl.stat.aversion) == (read.stat.czxid, read.stat.aversion):
                node = Znode(read.path, read.data, acl.acl, read.stat, Kind.PERSISTENT)
                found[read.path] = Live(node, read.children or ())
            else:
                left.append(read.path)  # it was changed in between
        if not left:
            return found
    raise Refused("its ACL is being changed", left[0], "try again once that is over")


def _refuse_foreign(epoch: int, left: Mapping[str, Left], journal: Journal, now: Mapping[str, Live], hint: str) -> None:
    created = {entry.path for entry in journal.entries if entry.before is None}
    found: list[tuple[str, str]] = []
    for path, one in left.items():
        live = now.get(path)
        if live is None:
            found += [(path, "deleted")] if one.is_there else []
        elif (reason := why_not(one, live.node)) is not None:
            found.append((path, reason))
        elif path in created:
            extra = {paths.join(path, f"/{name}") for name in live.children} - created
            found += [(path, f"has gained a child: {paths.name(min(extra))}")] if extra else []
    if found:
        raise WrittenSince(epoch, found, hint)


# -- the two trees ----------------------------------------------------------------------------------------------------


def _top(record: Record, epoch: int, journal: Journal) -> str:
    """The lowest node above all of it that is there before and after."""
    entries = journal.by_path()
    if not entries:
        raise _nothing(epoch, record)
    first, last = (min(entries, key=paths.order_key), max(entries, key=paths.order_key))
    top = first
    while not paths.contains(top, last):
        top = paths.parent(top)
    while top in entries and entries[top].action in (Action.CREATED, Action.DELETED):
        top = paths.parent(top)
    if not paths.contains(record.root, top):
        raise Refused(f"epoch {epoch} has created or deleted the root itself", record.root, "plan the way back instead")
    return top


def _connecting(client: Client, ends: Iterable[str], top: str, now: Mapping[str, Live]) -> dict[str, Live]:
    """The nodes between `top` and those that are known already."""
    wanted: set[str] = set()
    for path in ends:
        while path != top and path not in wanted:
            wanted.add(path)
            path = paths.parent(path)
    return _read(client, sorted({top, *wanted} - now.keys(), key=paths.order_key))


def _before(journal: Journal, now: Mapping[str, Znode]) -> dict[str, Znode]:
    """What was there before: pre-images where the epoch has written, the rest as it is.

    An ACL is that of the pre-image only where the epoch has set one: elsewhere it is the same, though whoever took the
    pre-image may have been shown less of it. Counters are those of now.
    """
    steps = {step.path for step in journal.acls}
    before = dict(now)
    for path, entry in journal.by_path().items():
        if entry.before is None:
            del before[path]
        elif entry.action is Action.DELETED:
            before[path] = entry.before
        else:
            data = entry.before.data if entry.action is Action.WRITTEN else now[path].data
            acl = entry.before.acl if path in steps else now[path].acl
            before[path] = now[path]._replace(data=data, acl=acl)
    return before


def _snapshot(nodes: Mapping[str, Znode], top: str, location: str, consistency: Consistency) -> Snapshot:
    builder = SnapshotBuilder()
    for node in nodes.values():
        builder.add(node.path, node.data, node.acl, node.stat, node.kind, node.ttl_ms)
    return builder.build(Scope(top), Provenance(location), consistency)
