"""make_plan: from two snapshots to operations in order. Pure: no server is asked.

Order: adds (parents before children), changes, deletes (children before parents); so an unaware reader that looks
while batches are applied never finds a node without its parent, and what is replaced goes only after its replacement
has come.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

from zkmig.changes import Code
from zkmig.diff import (
    ChangeAcl,
    ChangeCounter,
    ChangeData,
    ChangeKind,
    CounterHigher,
    Diff,
    EphemeralInTheWay,
    ExcludedInTheWay,
    diff,
)
from zkmig.epoch.control import head_size_max
from zkmig.epoch.created import created_sizes, kind_sizes
from zkmig.epoch.journal import Action, Entry, entry_bytes
from zkmig.errors import BadInput, PlanImpossible
from zkmig.model import path as paths
from zkmig.model.acl import ADMIN, CREATE, DELETE, WRITE, Identity, grants
from zkmig.model.patterns import parse_path
from zkmig.model.quota import Quota
from zkmig.model.snapshot import Snapshot
from zkmig.model.znode import Znode
from zkmig.plan.acls import AclPlanner
from zkmig.plan.added import Added, added_nodes, parents_of, with_migrators_acls
from zkmig.plan.batches import FrameTooLarge, NodeTooLarge, cut_behind, too_large
from zkmig.plan.creates import Operations
from zkmig.plan.deleted import deleted_nodes
from zkmig.plan.dependency import order
from zkmig.plan.operations import AclStep, CreateNode, DeleteNode, Operation, Pin, RaiseCounter, WriteData
from zkmig.plan.plan import Limits, Plan, SourcePin, TargetPin
from zkmig.plan.preflight import (
    IN_THE_WAY,
    KIND_DIFFERS,
    OVERSIZE,
    PERMISSION,
    SHUT_OUT,
    Finding,
    can_evaluate,
    refuse,
)
from zkmig.plan.soundness import examine
from zkmig.policy.captures import CapturePattern, any_of
from zkmig.policy.carry import Prepared, prepare
from zkmig.policy.leftout import left_out
from zkmig.policy.policy import AnyPolicy, policy_of
from zkmig.policy.quotas import carried_quotas
from zkmig.policy.rules import Rules
from zkmig.uncollected import uncollected

LEFT_OUT_BELOW = "left out, but below a node that would have to be deleted"
NAMED_MAX = 5  # paths named in one message
PAIRS_NOTED = 100_000  # creates and deletes for counters, from which on the plan says what they cost
CHUNK_OVERHEAD = 512  # head, name, ACL and packing of the largest undo chunk, beside its entry


@dataclass(frozen=True, slots=True)
class TargetScope:
    """The scope that covers the target, as its record stood when the plan was made."""

    scope: str
    control: str
    incarnation: str
    epoch: int


def make_plan(
    source: Snapshot,
    target: Snapshot | None,
    *,
    policy: AnyPolicy = None,
    limits: Limits | None = None,
    target_root: str | None = None,
    hosts: tuple[tuple[str, int], ...] = (),
    scope: TargetScope | None = None,
    identities: Iterable[Identity] | None = None,
    quotas: Iterable[Quota] | None = None,
) -> Plan:
    """The plan that makes `target` equal to `source`.

    target None: its root does not exist (give target_root, else the source's root). hosts, scope: where it will be
    applied; `apply` can supply what is missing. identities: of the session that will write, as the server knows it;
    None leaves permissions to the server. quotas: those of the source's scope, which the plan carries if the policy
    says so; None: not known.

    Raises PlanImpossible (an ephemeral in the way, a node over the frame limit, a lock-out) or NotPermitted, which name
    all that stands against the plan; and what a policy that cannot be followed raises.
    """
    declared = policy_of(policy)
    root = target.root if target is not None else (target_root or source.root)
    ready = prepare(source, target, declared, root)
    changes = diff(ready.source, ready.target, declared.compare, hash_first=True)  # the pins need the hashes anyway
    maker = _Maker(ready, changes, root, limits or Limits(), scope, tuple(identities or ()), identities is not None)
    below = (parse_path(each, "--exclude") for each in declared.excludes)
    excludes = [each for each in below if each != root and paths.contains(root, each)]
    with uncollected():
        made = maker.plan(hosts, declared.rules, target, any_of(declared.masks), excludes)
    notes = (*made.notes, *_masks_of_nothing(declared.masks, target, made.ordered))
    made = dataclasses.replace(made, masks=tuple(map(str, declared.masks)), notes=notes)
    if quotas is not None:
        carried, left = carried_quotas(quotas, ready, source.root, root, declared.quotas)
        made = dataclasses.replace(made, quotas=carried, left_out=dataclasses.replace(made.left_out, quotas=left))
    elif declared.quotas:
        raise BadInput("its quotas are not known", source.provenance.location, "quotas are read from a live source")
    return made


def _masks_of_nothing(masks: Iterable[CapturePattern], target: Snapshot | None, made: Operations) -> Iterator[str]:
    """One with a slip of the pen would hide nothing, and nobody would know."""
    for mask in masks:
        if target is not None and next(mask.find(target), None) is not None:
            continue
        late = (operation.path for operation in made.rest if isinstance(operation, CreateNode))
        if not any(mask.match(path) is not None for path in chain(made.creates.paths(), late)):
            yield f"no node matches the mask {mask}"


def _in_the_way(changes: Diff, root: str) -> Iterator[Finding]:
    ephemerals = [paths.join(root, item.path) for item in changes.in_the_way if isinstance(item, EphemeralInTheWay)]
    if ephemerals:
        yield Finding(
            IN_THE_WAY,
            _named(ephemerals),
            f"{len(ephemerals)} live ephemeral(s) of the target are in the way",
            "stop the processes that own them, or leave their parents out with --exclude",
            is_fatal=True,
        )
    excluded = [paths.join(root, item.path) for item in changes.in_the_way if isinstance(item, ExcludedInTheWay)]
    if excluded:
        yield Finding(
            IN_THE_WAY,
            _named(excluded),
            LEFT_OUT_BELOW,
            "leave the node above it out too with --exclude",
            is_fatal=True,
        )


def _named(names: list[str]) -> str:
    more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    return ", ".join(names[:NAMED_MAX]) + more


@dataclass
class _Maker:
    """Gathers adds, changes and deletes from a diff, then orders them."""

    ready: Prepared
    changes: Diff
    root: str
    limits: Limits
    scope: TargetScope | None
    identities: tuple[Identity, ...]
    check_permissions: bool
    added: Added = field(init=False)
    writes: list[Operation] = field(default_factory=list)
    deletes: list[DeleteNode] = field(default_factory=list)
    acl_changes: list[tuple[str, Znode, Znode]] = field(default_factory=list)
    raises: list[tuple[str, int, int]] = field(default_factory=list)  # path, counter before, counter wanted
    notes: list[str] = field(default_factory=list)
    journal_bytes: int = 0
    existing_parents: set[str] = field(default_factory=set)
    looked_at: set[str] = field(default_factory=set)  # of those, whose ACLs were asked what children need
    denied: list[str] = field(default_factory=list)
    too_large: list[FrameTooLarge] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)  # fatal ones
    creates_to_take_back: int = 0  # that raise the counters of deleted nodes again, should the epoch be rolled back

    @property
    def target(self) -> Snapshot | None:
        return self.ready.target

    def plan(
        self,
        hosts: tuple[tuple[str, int], ...],
        rules: Rules,
        whole: Snapshot | None,
        hides: Callable[[str], bool],
        excludes: Sequence[str],
    ) -> Plan:
        """whole: the target with what the policy does not select, which its rules may speak of."""
        source = self.ready.source
        self.notes += self.ready.notes
        self.findings += _in_the_way(self.changes, self.root)
        self._gather_adds(source)
        for change in self.changes.changes.without(Code.ADD, Code.DELETE):
            self._gather(change)
        self._gather_deletes()
        self._find_excluded_below()
        acls = AclPlanner(self.identities)
        created_below = Counter(parents_of(self.added.tops()))
        raised = self._counter_raises(created_below)
        raised_adds = self._raises_of_adds()
        raised |= {self.added.creates.path_at(index): raising for index, raising in raised_adds.items()}
        creates, steps = with_migrators_acls(self.added, set(raised_adds), acls)
        works_below = created_below.keys() | raised.keys()
        operations: list[Operation] = []
        operations += self.writes
        operations += [RaiseCounter(path, pairs, to) for path, (pairs, to) in sorted(raised.items(), key=_tree_order)]
        operations += reversed(self.deletes)  # a diff is in tree order: backwards, children come before parents
        self._note_costs(sum(pairs for pairs, _ in raised.values()))
        touched = self._touched()
        steps += self._acl_steps(acls, works_below)
        head_bytes = self._head_bytes()
        soundness, ties = examine(
            rules, whole, self.root, Operations(creates, tuple(operations)), steps, hides, excludes
        )
        ordered = order(creates, self.added.parents, operations, ties)
        if ordered.creates is not None:
            creates = creates.picked(ordered.creates)
        try:
            rest, ends = cut_behind(creates, ordered.rest, head_bytes, self.limits, ordered.blocks)
        except FrameTooLarge as error:
            self.too_large.append(error)
            self.too_large += too_large(creates, ordered.rest, ordered.blocks, head_bytes, self.limits)
        self._refuse(acls)
        self._refuse_heavy_journal()
        return Plan(
            source=_source_pin(source),
            target=self._target_pin(hosts),
            operations=Operations(creates, rest),
            batch_ends=ends,
            acl_steps=tuple(steps),
            touched=touched,
            head_bytes=head_bytes,
            journal_bytes=self.journal_bytes,
            limits=self.limits,
            identity=acls.identity_used,
            ephemerals_source=self.changes.ephemerals_source,
            ephemerals_target=self.changes.ephemerals_target,
            notes=tuple(self.notes),
            left_out=left_out(self.ready, self.changes, self.root),
            soundness=soundness,
        )

    # -- gathering ----------------------------------------------------------------------------------------------------

    def _gather_adds(self, source: Snapshot) -> None:
        self.added = added_nodes(source, self.changes.changes.sources_of(Code.ADD), self.root)
        for path in self.added.tops():
            self._need_on_parent(path, CREATE | DELETE)  # DELETE: to take it away again
        sizes = created_sizes(self.added.creates.path_offsets)
        self.journal_bytes += sum(sizes) + kind_sizes(self.added.creates.kinds)
        largest = sizes.index(max(sizes)) if sizes else 0
        if sizes and sizes[largest] > self.limits.frame_bytes_max - CHUNK_OVERHEAD:
            self._find_too_large(sizes[largest] + CHUNK_OVERHEAD, self.added.creates.path_at(largest))

    def _gather_deletes(self) -> None:
        nodes = self.changes.changes.targets_of(Code.DELETE)
        if not nodes:
            return
        assert self.target is not None
        deleted = deleted_nodes(self.target, nodes, self.root)
        self.creates_to_take_back += sum(deleted.counters)
        self.deletes += deleted.operations
        for parent in deleted.parents:
            self._need_on_parent_at(self.target.path_at(parent), CREATE | DELETE)  # CREATE: to bring it back
        self.journal_bytes += sum(deleted.journal_sizes)
        if CHUNK_OVERHEAD + 2 * max(deleted.journal_sizes) > self.limits.frame_bytes_max:  # a path is part of its entry
            for operation, size in zip(deleted.operations, deleted.journal_sizes, strict=True):
                self._find_if_heavy(size, operation.path)

    def _gather(self, change: object) -> None:
        match change:
            case ChangeData(path=relative, before=before, after=after):
                path = paths.join(self.root, relative)
                self.writes.append(WriteData(path, after.data, Pin.of(before.stat), len(before.data or b"")))
                self._need(before, path, WRITE)
                self._journal(Action.WRITTEN, path, before)
            case ChangeAcl(path=relative, before=before, after=after):
                path = paths.join(self.root, relative)
                self.acl_changes.append((path, before, after))
                self._need(before, path, ADMIN)
                self._journal(Action.ACL, path, before)
            case ChangeCounter(path=relative, before=was, after=wanted):
                self.raises.append((paths.join(self.root, relative), was, wanted))
            case ChangeKind(path=relative):
                what = "its kind (persistent, container, TTL) differs, and no write can change that"
                hint = "delete the node on the target first, or leave it out with --exclude"
                self._find(KIND_DIFFERS, paths.join(self.root, relative), what, hint)
            case _:
                raise AssertionError(f"a change that the planner does not know: {change!r}")

    def _find_excluded_below(self) -> None:
        """What the target's own scope leaves out is in no snapshot of it; that it is there its parent's Stat tells."""
        gone = {operation.path for operation in self.deletes}
        kept = [paths.join(self.root, excluded) for excluded in self.changes.excluded]
        left_out = [path for path in kept if path not in gone and paths.parent(path) in gone]
        if not left_out:
            return
        known = Counter(paths.parent(path) for path in gone)
        for path in left_out:
            parent = paths.parent(path)
            assert self.target is not None
            if self.target[parent].stat.num_children > known[parent]:
                self._find(IN_THE_WAY, path, LEFT_OUT_BELOW, "leave the node above it out too with --exclude")

    def _journal(self, action: Action, path: str, before: Znode | None) -> None:
        size = entry_bytes(Entry(action, path, 0, before))
        self._find_if_heavy(size, path)
        self.journal_bytes += size

    def _find_if_heavy(self, journaled: int, path: str) -> None:
        frame_bytes = journaled + CHUNK_OVERHEAD + len(path)
        if frame_bytes > self.limits.frame_bytes_max:
            self._find_too_large(frame_bytes, path)

    # -- permissions: what the target's ACLs say, before anything is tried --------------------------------------------

    def _need_on_parent(self, path: str, perms: int) -> None:
        if path != self.root:
            self._need_on_parent_at(paths.parent(path), perms)

    def _need_on_parent_at(self, parent: str, perms: int) -> None:
        if parent in self.looked_at:
            return
        self.looked_at.add(parent)
        if self.target is not None and parent in self.target:
            self.existing_parents.add(parent)
            if self.check_permissions:
                self._need(self.target[parent], parent, perms)

    def _need(self, node: Znode, path: str, perms: int) -> None:
        if not self.check_permissions or grants(node.acl, self.identities) & perms == perms:
            return
        if all(can_evaluate(entry.scheme, entry.id, self.identities) for entry in node.acl):
            self.denied.append(path)  # else (sasl, x509, ip ranges) only the server knows

    # -- what stands against the plan ---------------------------------------------------------------------------------

    def _find(self, code: str, path: str, what: str, hint: str) -> None:
        self.findings.append(Finding(code, path, what, hint, is_fatal=True))

    def _find_too_large(self, frame_bytes: int, path: str) -> None:
        self.too_large.append(NodeTooLarge(frame_bytes, path, self.limits))

    def _refuse(self, acls: AclPlanner) -> None:
        """Raise for all that was found, at once. What only the servers' frame limit is against comes as
        FrameTooLarge, since they may take more than is known."""
        for path in acls.shut_out:
            what = "its ACL would shut the migrator out of its own work and undo"
            self._find(SHUT_OUT, path, what, "authenticate with --auth-file")
        if self.denied:
            names = sorted(set(self.denied), key=paths.order_key)
            what = f"{len(names)} node(s) of the target do not let this identity make the change or take it back"
            hint = "authenticate with --auth-file as somebody whom their ACLs let in"
            self._find(PERMISSION, _named(names), what, hint)
        by_path: dict[str, FrameTooLarge] = {}
        for error in sorted(self.too_large, key=lambda error: error.frame_bytes):
            by_path[error.where] = error
        heaviest = list(by_path.values())[::-1]
        if self.findings:
            oversize = [Finding(OVERSIZE, each.where, each.what, each.hint, is_fatal=True) for each in heaviest]
            refuse([*self.findings, *oversize])
        if heaviest:
            for each in heaviest[1 : NAMED_MAX + 1]:
                heaviest[0].add_note(f"  also: {each.where}: {each.what}")
            raise heaviest[0]

    # -- counters, ACLs, parents --------------------------------------------------------------------------------------

    def _counter_raises(self, created_below: Counter[str]) -> dict[str, tuple[int, int]]:
        """For each path whose sequence counter must go up: by how many pairs, and to what."""
        found: dict[str, tuple[int, int]] = {}
        for path, before, wanted in self.raises:
            pairs = wanted - before - created_below[path]
            if pairs > 0:
                found[path] = (pairs, wanted)
                self._raisable(path)
            elif pairs < 0:
                self.notes.append(f"{path}: its sequence counter will be {-pairs} higher than the source's")
        for note in self.changes.notes:
            if isinstance(note, CounterHigher):
                path = paths.join(self.root, note.path)
                self.notes.append(
                    f"{path}: its sequence counter is {note.target}, the source's {note.source}; it cannot be lowered"
                )
        return found

    def _raises_of_adds(self) -> dict[int, tuple[int, int]]:
        """The same for what the plan creates, by index among the creates."""
        found: dict[int, tuple[int, int]] = {}
        for index, pairs in self.added.raises():
            if pairs > 0:
                found[index] = (pairs, self.added.counters[index])
            else:
                path = self.added.creates.path_at(index)
                self.notes.append(f"{path}: its sequence counter will be {-pairs} higher than the source's")
        return found

    def _note_costs(self, pairs: int) -> None:
        """A counter goes up by a create and a delete for each number [zookeeper-facts 19]: a thousand take 0.1 s."""
        if pairs > PAIRS_NOTED:
            self.notes.append(f"raising sequence counters takes {pairs} creates and deletes")
        if self.creates_to_take_back > PAIRS_NOTED:
            self.notes.append(
                f"a rollback would take {self.creates_to_take_back} creates to raise the counters of deleted nodes"
            )

    def _raisable(self, path: str) -> None:
        if self.target is not None and path in self.target:
            self.existing_parents.add(path)
            self._need(self.target[path], path, CREATE | DELETE)

    def _touched(self) -> tuple[str, ...]:
        """Existing nodes whose Stat changes without being written themselves, in tree order."""
        gone = {operation.path for operation in self.deletes}
        touched = sorted(self.existing_parents - gone, key=paths.order_key)
        for path in touched:
            assert self.target is not None
            self._journal(Action.TOUCHED, path, self.target[path])
        return tuple(touched)

    def _acl_steps(self, acls: AclPlanner, works_below: Iterable[str]) -> list[AclStep]:
        busy = set(works_below) | self.existing_parents
        written = {operation.path for operation in self.writes}
        steps = []
        for path, before, after in self.acl_changes:
            needed = (CREATE | DELETE if path in busy else 0) | (WRITE if path in written else 0)
            steps.append(acls.for_existing(path, before.acl, after.acl, needed, Pin.of(before.stat)))
        return steps

    # -- pins and limits ----------------------------------------------------------------------------------------------

    def _head_bytes(self) -> int:
        return head_size_max(self.scope.scope, self.scope.control) if self.scope else head_size_max(None)

    def _refuse_heavy_journal(self) -> None:
        if self.journal_bytes > self.limits.journal_bytes_max:
            raise PlanImpossible(
                f"its journal would put {self.journal_bytes} bytes on the servers, more than "
                f"{self.limits.journal_bytes_max}",
                self.root,
                "split the change, or raise --journal-max",
            )

    def _target_pin(self, hosts: tuple[tuple[str, int], ...]) -> TargetPin:
        scope = self.scope
        return TargetPin(
            location=self.target.provenance.location if self.target is not None else "",
            hosts=hosts,
            root=self.root,
            tree_hash=self.target.tree_hash if self.target is not None else None,
            counter_hash=self.target.counter_hash if self.target is not None else None,
            zxid_last=self.target.zxid_last if self.target is not None else 0,
            scope=scope.scope if scope else None,
            control=scope.control if scope else None,
            incarnation=scope.incarnation if scope else None,
            epoch=scope.epoch if scope else None,
        )


def _tree_order(item: tuple[str, tuple[int, int]]) -> bytes:
    return paths.order_key(item[0])


def _source_pin(source: Snapshot) -> SourcePin:
    return SourcePin(
        location=source.provenance.location,
        root=source.root,
        tree_hash=source.tree_hash,
        counter_hash=source.counter_hash,
        zxid_first=source.zxid_first,
        zxid_last=source.zxid_last,
        is_fuzzy=source.is_fuzzy,
        taken_at=source.provenance.taken_at,
    )
