"""A reader that looks all the while, and the judgement of kazoo in the end."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tests.torture.crashpoints_scenarios import Place, Violation
from tests.trees import Tree
from zkmig.epoch.transitions import State
from zkmig.model.quota import limits_path
from zkmig.reader import Reader
from zkmig.reader.view import View

# -- one scope, and those who look at it ------------------------------------------------------------------------------


def rows(view: View) -> dict[str, tuple[object, ...]]:
    """A view as it is compared."""
    return {path: (node.data, node.acl, tuple(node.stat)) for path, node in view.items()}


class Watcher:
    """A reader of one scope, and what each of its views has to be. views: how many were checked."""

    def __init__(self, reader: Reader, site: Place, old: Tree, new: Tree) -> None:
        self._reader = reader
        self._site = site
        self._trees = [
            {site.path(relative): (node.data, node.acl) for relative, node in tree.items()} for tree in (old, new)
        ]
        self._before: dict[str, tuple[object, ...]] | None = None
        self._last = (0, 0)
        self.views = 0
        self.states: Counter[str] = Counter()

    def look(self) -> None:
        """One more view, checked."""
        view = self._reader.view(fresh=self.views % 4 != 3)
        self.views += 1
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
            wrong -= {self._site.path(relative) for relative in self._site.foreign}
        if wrong:
            raise Violation(f"torn view in {view.state}: {sorted(wrong)}")

    def _check_tree(self, view: View, seen: dict[str, tuple[object, ...]]) -> None:
        are_acls_pending = view.seen.record.pending is not None
        width = 1 if are_acls_pending else 2
        foreign = {self._site.path(relative) for relative in self._site.foreign}
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
    found = {path: (seen.data, seen.acl) for path, seen in image.items()}
    if expected != found:
        raise Violation(f"not the tree: {differences(found, expected)}")
    low = [path for path, seen in image.items() if seen.counter < tree[path].counter]
    if low:
        raise Violation(f"counters went down: {low}")
    if (record.state, record.attempt, record.pending, record.conflict) != (State.STABLE, None, None, None):
        raise Violation(f"left behind: {record}")
    is_new = record.epoch > 0
    if is_new != bool(site.kazoo.exists(limits_path(site.root))):
        raise Violation(f"the quota is {'missing' if is_new else 'there'}")
