"""Trees for tests: real ones from tests/data, and hypothesis strategies for odd ones.

A tree is a dict from relative path ("" is the root) to Node; `snapshot_of` puts it under a root. Stats are made so
that each parent shows the counter that its Node asks for.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from hypothesis import strategies as st

from zkmig.model import path as paths
from zkmig.model.acl import ALL, OPEN_ACL, READ, Acl, AclList
from zkmig.model.scope import Scope
from zkmig.model.snapshot import Consistency, Provenance, Snapshot
from zkmig.model.staging import SnapshotBuilder
from zkmig.model.stat import Stat
from zkmig.model.znode import Kind

REAL_TREES = ("clickhouse-18.16", "apache-zookeeper-invalidsnap")
ONE_STATE = Consistency(False, 7, 9, "made by a test")


class Node(NamedTuple):
    """What a test says of a znode; the rest of its Stat is made up."""

    data: bytes | None = b""
    acl: AclList = OPEN_ACL
    counter: int = 0
    kind: Kind = Kind.PERSISTENT
    ttl_ms: int = 0


Tree = dict[str, Node]

EPHEMERAL = Node(b"session", kind=Kind.EPHEMERAL)


def snapshot_of(tree: Mapping[str, Node], root: str = "/app", kinds_known: bool = True) -> Snapshot:
    """The tree under `root`, added in the order of the mapping."""
    children: dict[str, int] = {}
    for relative in tree:
        if relative:
            parent = relative.rpartition("/")[0]
            children[parent] = children.get(parent, 0) + 1
    builder = SnapshotBuilder()
    for number, (relative, node) in enumerate(tree.items()):
        owner = 0x1000_0000_0000_0000 + number if node.kind is Kind.EPHEMERAL else 0
        size = len(node.data) if node.data else 0
        num_children = children.get(relative, 0)
        cversion = 2 * node.counter - num_children
        stat = Stat(100 + number, 200 + number, 1, 2, 3, cversion, 4, owner, size, num_children, 300 + number)
        builder.add(paths.join(root, relative), node.data, node.acl, stat, node.kind, node.ttl_ms)
    provenance = Provenance("zk://zk1:2181/app", ("zk1:2181",), 1_700_000_000_000, "0.1.0", "3.8.0", kinds_known)
    return builder.build(Scope(root), provenance, ONE_STATE)


def tree_of(snapshot: Snapshot) -> Tree:
    """The inverse of `snapshot_of`, without what a Node does not say."""
    return {
        paths.relative_to(path, snapshot.root): Node(znode.data, znode.acl, znode.counter, znode.kind, znode.ttl_ms)
        for path, znode in snapshot.items()
    }


# -- real trees -------------------------------------------------------------------------------------------------------


def load_real(name: str) -> Snapshot:
    """A tree of REAL_TREES as a snapshot of "/"."""
    shared = os.environ.get("ZKMIG_SHARED_DATA")
    folder = Path(shared, "trees") if shared else Path(__file__).parent / "data"
    builder = SnapshotBuilder()
    with gzip.open(folder / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            stat = Stat(
                row["czxid"], row["mzxid"], row["ctime"], row["mtime"], row["version"], row["cversion"],
                row["aversion"], row["ephemeralOwner"], row["dataLength"], row["numChildren"], row["pzxid"],
            )  # fmt: skip
            data = None if row["null"] else base64.b64decode(row["data"])
            builder.add(row["path"], data, tuple(Acl(*entry) for entry in row["acl"]), stat)
    return builder.build(Scope("/"), Provenance(name), ONE_STATE)


# -- made-up trees ----------------------------------------------------------------------------------------------------

# Prefixes of one another around "-" and "." (both sort below "/"), names that only look alike, CJK, percent, spaces.
NAMES = ("a", "a-b", "a.b", "a0", "ab", "A", "é", "é", "队列", "%2F", "%41", "x y", "~", "0000000001", "\u00a0")

_letters = st.characters(exclude_categories=("Cc", "Cs", "Co", "Cn"), max_codepoint=0xFFEF, exclude_characters="/")
names = st.sampled_from(NAMES) | st.text(_letters, min_size=1, max_size=6).filter(lambda name: name not in {".", ".."})

acls = st.sampled_from(
    (
        OPEN_ACL,
        (Acl(READ, "world", "anyone"),),
        (Acl(ALL, "digest", "me:vlUvLnd8MlacsE80rDuu6ONESbM="), Acl(READ, "ip", "10.0.0.0/8")),
        (Acl(READ, "ip", "10.0.0.0/8"), Acl(ALL, "digest", "me:vlUvLnd8MlacsE80rDuu6ONESbM=")),
        (Acl(ALL, "sasl", "用户@EXAMPLE"),),
        (),
    )
)
data = st.none() | st.just(b"") | st.binary(max_size=20) | st.binary(min_size=100, max_size=300)
counters = st.integers(0, 3) | st.integers(0, 2**29)


@st.composite
def nodes(draw: st.DrawFn, leaf: bool = True) -> Node:
    """Any node; an ephemeral only where a leaf is wanted."""
    kind = draw(st.sampled_from(Kind if leaf else [kind for kind in Kind if kind is not Kind.EPHEMERAL]))
    ttl_ms = draw(st.integers(1, 2**40)) if kind is Kind.TTL else 0
    counter = 0 if kind is Kind.EPHEMERAL else draw(counters)
    return Node(draw(data), draw(acls), counter, kind, ttl_ms)


@st.composite
def trees(draw: st.DrawFn, nodes_max: int = 25) -> Tree:
    """A tree of 1 to nodes_max nodes, in an order of its own."""
    tree: Tree = {"": draw(nodes(leaf=False))}
    for _ in range(draw(st.integers(0, nodes_max - 1))):
        parent = draw(st.sampled_from([path for path, node in tree.items() if node.kind is not Kind.EPHEMERAL]))
        tree.setdefault(f"{parent}/{draw(names)}", draw(nodes()))
    return dict(draw(st.permutations(list(tree.items()))))


def without(tree: Tree, path: str) -> Tree:
    """The tree less one subtree."""
    return {other: node for other, node in tree.items() if other != path and not other.startswith(path + "/")}


@st.composite
def neighbours(draw: st.DrawFn) -> tuple[Tree, Tree]:
    """Two trees that differ in a few places: nodes changed, subtrees removed or moved, nodes added."""
    one = draw(trees())
    other = dict(one)
    for _ in range(draw(st.integers(0, 6))):
        path = draw(st.sampled_from(sorted(other)))
        has_children = any(child.startswith(path + "/") for child in other)
        match draw(st.sampled_from(("replace", "one field", "remove", "add"))):
            case "replace":
                other[path] = draw(nodes(leaf=not has_children and path != ""))
            case "one field":
                fresh = draw(nodes(leaf=False))
                field = draw(st.sampled_from(("data", "acl", "counter")))
                if field != "counter" or other[path].kind is not Kind.EPHEMERAL:
                    other[path] = other[path]._replace(**{field: getattr(fresh, field)})
            case "remove" if path:
                other = without(other, path)
            case _ if other[path].kind is not Kind.EPHEMERAL:
                other.setdefault(f"{path}/{draw(names)}", draw(nodes()))
            case _:
                pass
    return (one, other) if draw(st.booleans()) else (other, one)
