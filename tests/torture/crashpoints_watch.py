"""A reader that looks all the while, the judgement of kazoo in the end, and what the server's own log says."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.torture import txnlog
from tests.torture.crashpoints_scenarios import Place, Violation
from tests.trees import Node, Tree
from zkmig.epoch.transitions import State
from zkmig.errors import NotReady
from zkmig.model.acl import AclList
from zkmig.model.quota import limits_path
from zkmig.model.znode import Kind
from zkmig.reader import Reader
from zkmig.reader.view import View

CURSOR = re.compile(r"(?P<home>/.+)/epochs/\d+-(?P<attempt>[^/]+)/cursor")

# -- one scope, and those who look at it ------------------------------------------------------------------------------


def rows(view: View) -> dict[str, tuple[object, ...]]:
    """A view as it is compared."""
    return {path: (node.data, node.acl, tuple(node.stat)) for path, node in view.items()}


class Watcher:
    """A reader of one scope, and what each of its views has to be. trees: by epoch. views: how many were checked."""

    def __init__(self, reader: Reader, site: Place, trees: Sequence[Tree]) -> None:
        self.reader = reader
        self._site = site
        self._trees = [{site.path(path): (node.data, node.acl) for path, node in tree.items()} for tree in trees]
        self._before: dict[str, tuple[object, ...]] | None = None
        self._last = (0, 0)
        self.views = 0
        self.states: Counter[str] = Counter()

    def look(self) -> None:
        """One more view, checked."""
        self.views += 1
        try:
            view = self.reader.view(fresh=self.views % 4 != 0)
        except NotReady:
            if not self._site.kazoo.exists(self._site.names.home):
                return  # it was removed
            if self._trees[0] or self._site.record().epoch:
                raise
            return  # no epoch has made a tree yet
        if not self._trees[view.epoch]:
            raise Violation(f"a view of a tree that nobody has made, in {view.state}")
        self.states[view.state] += 1
        if (view.epoch, view.zxid) < self._last:
            raise Violation(f"a view of epoch {view.epoch} at {view.zxid:#x} after one at {self._last}")
        self._last = view.epoch, view.zxid
        seen = rows(view)
        if view.state == "STABLE":
            self._check_tree(view, seen)
            self._before = seen
        else:
            self._check_image(view, seen)

    def _check_image(self, view: View, seen: dict[str, tuple[object, ...]]) -> None:
        """To the last field of each Stat what it was before; where nothing is overlaid others' writes show."""
        wrong = set(differences(seen, self._before or {}))
        if view.state == "PREPARING":
            wrong -= {self._site.path(path) for path in (*self._site.foreign, *self._site.foreign_acls)}
        if wrong:
            raise Violation(f"torn view in {view.state}: {sorted(wrong)}")

    def _check_tree(self, view: View, seen: dict[str, tuple[object, ...]]) -> None:
        are_acls_pending = view.seen.record.pending is not None
        width = 1 if are_acls_pending else 2
        foreign = {self._site.path(path) for path in (*self._site.foreign, *self._site.foreign_acls)}
        want = {path: row[:width] for path, row in self._trees[view.epoch].items() if path not in foreign}
        found = {path: row[:width] for path, row in seen.items() if path not in foreign}
        if want != found:
            raise Violation(f"torn view at epoch {view.epoch}: {differences(found, want)}")


def differences(found: dict[str, Any], want: dict[str, Any]) -> list[str]:
    return sorted(path for path in found.keys() | want.keys() if found.get(path) != want.get(path))[:5]


def judge(site: Place, tree: Tree) -> None:
    """What kazoo reads must be exactly the tree, but for foreign values; and nothing of the attempt is left to do."""
    image, record = site.look(), site.record()
    expected = {path: (node.data, node.acl) for path, node in tree.items()}
    for path, data in site.foreign.items():
        expected[path] = (data, tree[path].acl)
    for path, acl in site.foreign_acls.items():
        expected[path] = (tree[path].data, acl)
    found = {path: (seen.data, seen.acl) for path, seen in image.items()}
    if expected != found:
        raise Violation(f"not the tree: {differences(found, expected)}")
    low = [path for path, seen in image.items() if seen.counter < tree[path].counter]
    if low:
        raise Violation(f"counters went down: {low}")
    rest = State.STABLE if tree else State.EMPTY
    if (record.state, record.attempt, record.pending, record.conflict) != (rest, None, None, None):
        raise Violation(f"left behind: {record}")
    is_new = record.epoch > 0
    if is_new != bool(site.kazoo.exists(limits_path(site.root))):
        raise Violation(f"the quota is {'missing' if is_new else 'there'}")


class Log:
    """What a server on this machine has written down. writes: of each session, refused ones too, after a zxid."""

    def __init__(self, data_dir: Path, zxid_before: int = 0) -> None:
        self.writes: Counter[int] = Counter()
        self._owners: dict[str, int] = {}  # by path: what the log keeps of a node's kind
        self._entries = [entry for entry in txnlog.read_logs(data_dir) if not entry.failed]
        for entry in txnlog.read_logs(data_dir):
            if entry.zxid > zxid_before and entry.type not in (txnlog.CREATE_SESSION, txnlog.CLOSE_SESSION):
                self.writes[entry.session] += 1
            for operation in () if entry.failed else entry.operations:
                match operation:
                    case txnlog.Create():
                        self._owners[operation.path] = operation.owner
                    case txnlog.Delete():
                        self._owners.pop(operation.path, None)

    def untightened_batches(self, plans: Mapping[str, Mapping[str, AclList]]) -> tuple[int, list[str]]:
        """How many batches of plans that tighten ACLs were applied, and those that were before all of them were.

        plans: what each has to tighten, by its hash.
        """
        acls: dict[str, tuple[object, ...]] = {}
        plan_of: dict[str, str] = {}  # by attempt
        batches, wrong = 0, []
        for entry in self._entries:
            for operation in entry.operations:
                match operation:
                    case txnlog.Create() | txnlog.SetAcl():
                        acls[operation.path] = operation.acl
                    case txnlog.SetData() if operation.path.endswith("/epoch"):
                        plan_of |= _attempt_in(operation.data)
                    case txnlog.SetData() if (cursor := CURSOR.fullmatch(operation.path)) and operation.version > 0:
                        tightens = plans.get(plan_of.get(cursor["attempt"], ""), {})
                        batches += bool(tightens)
                        late = [path for path, acl in tightens.items() if acls.get(path) != tuple(map(tuple, acl))]
                        wrong += [f"batch {operation.version - 1} before {late} was tightened"] if late else []
        return batches, wrong

    def wrong_kinds(self, trees: Mapping[str, Tree]) -> list[str]:
        """Where the nodes below each root, "/" and one name, are not those of its tree, each of its kind."""
        found: dict[str, dict[str, int]] = {root: {} for root in trees}
        for path, owner in self._owners.items():
            root = "/" + path.split("/", 2)[1]
            if root in found:
                found[root][path[len(root) :]] = owner
        expected = {root: {path: _owner(node) for path, node in tree.items()} for root, tree in trees.items()}
        return [
            f"{root}: kinds of {differences(found[root], expected[root])}"
            for root in trees
            if found[root] != expected[root]
        ]


def _attempt_in(data: bytes | None) -> dict[str, str]:
    """The hash of the plan by the attempt that a record names."""
    fields = json.loads(data or b"{}")
    return {fields["attempt"]: fields["plan_hash"]} if fields.get("attempt") else {}


def _owner(node: Node) -> int:
    if node.kind is Kind.CONTAINER:
        return txnlog.CONTAINER_OWNER
    return txnlog.TTL_MASK | node.ttl_ms if node.kind is Kind.TTL else 0
