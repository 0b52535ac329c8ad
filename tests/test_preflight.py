"""What a target would refuse is named before anything is written, all of it at once.

Method: real servers that refuse: without TTL nodes, with quotas in force, with ACLs that shut a session out, without a
scheme. Each finding has its control: with the preflight taken away, the same plan really fails there, halfway.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest
from kazoo.exceptions import QuotaExceededError
from kazoo.security import ACL, Id

from tests.interruptions import Interrupted
from tests.scopes import ALICE, ALICES, ALICES_IDENTITY, ME, MY_IDENTITY, READ_ONLY, Site
from tests.trees import EPHEMERAL, Node, Tree, snapshot_of
from zkmig.apply import forward
from zkmig.apply.engine import SealedPlan
from zkmig.apply.forward import Applied, Forward, Options
from zkmig.apply.preflight import examine
from zkmig.dev import Server
from zkmig.epoch.control import Roles
from zkmig.epoch.transitions import State
from zkmig.errors import Conflict, NotPermitted, Outcome, PlanImpossible
from zkmig.model import path as paths
from zkmig.model.acl import ALL, READ, WORLD, Acl
from zkmig.model.quota import Quota, limits_path, stats_path
from zkmig.model.scope import Scope
from zkmig.model.snapshot import Snapshot
from zkmig.model.znode import Kind
from zkmig.plan import planfile, preflight
from zkmig.plan.batches import NodeTooLarge
from zkmig.plan.make import make_plan
from zkmig.plan.plan import Limits
from zkmig.plan.preflight import Finding, quota_findings, refuse, warnings_of
from zkmig.policy.kinds import KindRule
from zkmig.policy.policy import Policy
from zkmig.source.ensemble import scan_or_none
from zkmig.source.quotas import read_quotas, read_quotas_around, read_usage
from zkmig.wire.codes import ServerError

SMALL = Limits(batch_bytes_max=2_000)


@pytest.fixture(scope="module")
def strict() -> Iterator[Server]:
    """A server that enforces quotas and admits no TTL nodes."""
    with Server(java_options=["-Dzookeeper.enforceQuota=true"]) as server:
        yield server


@pytest.fixture
def strict_site(strict: Server, tree_root: str) -> Iterator[Site]:
    """A scope on it."""
    with Site(strict, tree_root) as site:
        yield site


def without_preflight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Forward, "_preflight", lambda *_: None)


def set_quota(site: Site, relative: str, text: str) -> None:
    """As `zkCli.sh setquota` does: the way down, the limits, and the node that the server counts in."""
    place = limits_path(site.path(relative))
    site.kazoo.ensure_path(paths.parent(place))
    site.kazoo.create(place, text.encode())
    site.kazoo.create(stats_path(site.path(relative)), b"count=0,bytes=0")


def hard(count: int = -1, size: int = -1) -> str:
    """Limits as a server of 3.8 writes them [seen]."""
    return f"count=-1,bytes=-1=;byteHardLimit={size};countHardLimit={count}"


def codes(findings: tuple[Finding, ...]) -> list[tuple[str, str, bool]]:
    return [(finding.code, finding.path, finding.is_fatal) for finding in findings]


def assert_untouched(site: Site, epoch: int = 0) -> None:
    record = site.record()
    assert record.state in (State.STABLE, State.EMPTY)
    assert record.epoch == epoch


# -- schemes ----------------------------------------------------------------------------------------------------------


def test_every_id_that_the_target_does_not_know_is_named(site: Site) -> None:
    """Each with a node that has it, and none that it knows; also under a root in which the session may not create."""
    site.init({"": Node()})
    tree = {
        "": Node(),
        "/a": Node(b"", (Acl(ALL, *WORLD), Acl(READ, "sasl", "bob"), Acl(READ, "kerberos", "eve"))),
        "/b": Node(b"", (Acl(ALL, *WORLD), Acl(READ, "ip", "10.0.0.0/8"), Acl(READ, "sasl", "bob"))),
    }
    client = site.client()
    found = examine(client, site.plan(tree).plan)
    assert codes(found) == [("scheme", site.path("/a"), True), ("scheme", site.path("/a"), True)]
    assert [re.findall(r"ACL: (\w+)", finding.what) for finding in found] == [["sasl"], ["kerberos"]]


def test_ids_are_asked_about_where_the_session_may_not_create(strict: Server, tree_root: str) -> None:
    """The server looks at the ACL first: a root that is shut gives the same answer."""
    with Site(strict, tree_root) as site:
        site.init({"": Node()})
        site.kazoo.set_acls("/", [_kazoo_acl(Acl(READ, *WORLD)), _kazoo_acl(Acl(ALL, *ALICES_IDENTITY))])
        try:
            tree = {"": Node(), "/a": Node(b"", (Acl(ALL, *WORLD), Acl(READ, "sasl", "bob")))}
            assert codes(examine(site.client(), site.plan(tree).plan)) == [("scheme", site.path("/a"), True)]
            known = {"": Node(), "/a": Node(b"", (Acl(ALL, *WORLD), Acl(READ, "ip", "10.0.0.1")))}
            assert examine(site.client(), site.plan(known).plan) == ()
        finally:
            site.kazoo.set_acls("/", [_kazoo_acl(Acl(ALL, *WORLD))])


def _kazoo_acl(acl: Acl) -> ACL:
    return ACL(acl.perms, Id(acl.scheme, acl.id))


# -- kinds ------------------------------------------------------------------------------------------------------------

TTLS: Tree = {
    "": Node(),
    "/lease": Node(b"l", kind=Kind.TTL, ttl_ms=86_400_000),
    "/lease/x": Node(b"x", kind=Kind.TTL, ttl_ms=86_400_000),
}


def test_ttl_nodes_that_the_target_does_not_admit(strict_site: Site) -> None:
    strict_site.init({"": Node()})
    sealed = strict_site.plan(TTLS)
    with pytest.raises(PlanImpossible, match="no TTL nodes") as caught:
        strict_site.apply(sealed)
    assert "extendedTypesEnabled" in caught.value.hint
    assert caught.value.outcome is Outcome.NOTHING_WRITTEN
    assert_untouched(strict_site)
    with pytest.raises(PlanImpossible, match="no TTL nodes"):
        strict_site.apply(sealed, dry_run=True)


def test_the_control_of_ttl_nodes(strict_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    without_preflight(monkeypatch)
    strict_site.init({"": Node()})
    with pytest.raises(Conflict, match="Unimplemented"):
        strict_site.apply(strict_site.plan(TTLS))
    assert strict_site.record().state is State.OPEN
    strict_site.rollback()


def test_a_target_that_admits_them_has_nothing_to_say(site: Site) -> None:
    """And it is a question only: nothing was created for it, at the root or anywhere."""
    site.init({"": Node()})
    before = set(site.kazoo.get_children("/"))
    assert examine(site.client(), site.plan(TTLS).plan) == ()
    assert set(site.kazoo.get_children("/")) == before
    assert set(site.look()) == {""}


def test_kinds_by_rule_are_really_created(tree_root: str) -> None:
    """A live read shows neither, so they are told by what the server does: it reaps an emptied container, and a TTL
    node whose time is over; a persistent node beside them stays."""
    options = ["-Dznode.container.checkIntervalMs=100"]
    with Server(extended_types=True, java_options=options) as server, Site(server, tree_root) as site:

        def is_there(relative: str) -> bool:
            return site.kazoo.exists(site.path(relative)) is not None

        site.init({"": Node(), "/old": Node()})
        source = snapshot_of(
            {
                "": Node(),
                "/locks": Node(),
                "/locks/x": Node(),
                "/lease": Node(b"l"),
                "/kept": Node(),
                "/kept/x": Node(),
            },
            tree_root,
            kinds_known=False,
        )
        rules = (f"container:{tree_root}/locks", f"ttl=3000:{tree_root}/lease")
        made = make_plan(
            source,
            site_snapshot(site),
            policy=Policy(kinds=tuple(map(KindRule.parse, rules))),
            identities=site.client().identities,
        )
        assert [use.nodes for use in made.left_out.kinds] == [1, 1]
        site.apply(SealedPlan(made, planfile.plan_hash(made)))
        assert is_there("/locks/x")
        for parent in ("/locks", "/kept"):
            site.kazoo.delete(site.path(f"{parent}/x"))
        deadline = time.monotonic() + 60
        while is_there("/locks") or is_there("/lease"):
            assert time.monotonic() < deadline
        assert is_there("/kept")


# -- permissions ------------------------------------------------------------------------------------------------------

HERS: Tree = {"": Node(), "/a": Node(b"a", ALICES), "/b": Node(b"b", (*READ_ONLY, *ALICES)), "/c": Node(b"c")}
CHANGED: Tree = {
    "": Node(),
    "/a": Node(b"a2", ALICES),
    "/b": Node(b"b", (*READ_ONLY, *ALICES), counter=1),
    "/b/new": Node(b"", ALICES),
    "/c": Node(b"c2"),
}


def _plan_as_both(site: Site, tree: Tree) -> SealedPlan:
    return site.plan(tree, client=site.client(ALICE, ME))


def test_every_node_that_shuts_the_session_out_is_named(site: Site) -> None:
    """A plan made by who may, applied by who may not: refused before the epoch, with each path."""
    readable = {
        path: node._replace(acl=(*READ_ONLY, *node.acl)) if path == "/a" else node for path, node in HERS.items()
    }
    changed = {path: node._replace(acl=readable.get(path, node).acl) for path, node in CHANGED.items()}
    site.init(readable, Roles((MY_IDENTITY, ALICES_IDENTITY), (WORLD,)))
    before = site.look()
    sealed = _plan_as_both(site, changed)
    with pytest.raises(NotPermitted) as caught:
        site.apply(sealed)
    assert caught.value.outcome is Outcome.NOTHING_WRITTEN
    for relative in ("/a", "/b"):
        assert site.path(relative) in caught.value.where
    assert site.path("/c") not in caught.value.where
    assert_untouched(site)
    assert site.look() == before


def test_the_control_of_permissions(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    without_preflight(monkeypatch)
    tree = {"": Node(), "/a": Node(b"a", (*READ_ONLY, *ALICES)), "/c": Node(b"c")}
    site.init(tree, Roles((MY_IDENTITY, ALICES_IDENTITY), (WORLD,)))
    sealed = _plan_as_both(site, {**tree, "/a": tree["/a"]._replace(data=b"a2")})
    with pytest.raises(NotPermitted) as caught:
        site.apply(sealed)
    assert caught.value.outcome is Outcome.PARTLY_WRITTEN
    site.rollback()


def test_what_only_the_server_can_tell_is_asked(site: Site) -> None:
    """An address range lets this session in, another does not: both look alike from here."""
    inside, outside = (Acl(ALL, "ip", "127.0.0.0/8"),), (Acl(READ, *WORLD), Acl(ALL, "ip", "10.0.0.0/8"))
    site.init({"": Node(), "/in": Node(b"1", inside), "/out": Node(b"1", outside), "/parent": Node(b"", outside)})
    tree = {"": Node(), "/in": Node(b"2", inside), "/out": Node(b"2", outside), "/parent": Node(b"", outside, 1)}
    sealed = site.plan({**tree, "/parent/child": Node()})
    with pytest.raises(NotPermitted) as caught:
        site.apply(sealed)
    assert site.path("/out") in caught.value.where
    assert site.path("/parent") in caught.value.where
    assert site.path("/in") not in caught.value.where
    assert_untouched(site)


def test_a_root_whose_parent_admits_nobody(site: Site) -> None:
    """The parent of a root that is to be created lies outside of all that was read."""
    site.grow({"": Node(acl=(*READ_ONLY, *ALICES))})
    with Site(site.server, site.path("/scope"), eyes=site.kazoo) as inner:
        client = inner.client()
        sealed = SealedPlan(
            make_plan(
                snapshot_of({"": Node()}, inner.root), None, target_root=inner.root, identities=client.identities
            ),
            "",
        )
        found = examine(client, sealed.plan)
    assert codes(found) == [("permission", site.root, True)]


# -- lock-outs --------------------------------------------------------------------------------------------------------


def test_an_operator_that_locks_itself_out_is_warned(site: Site) -> None:
    """Once for each ACL, with the number of nodes; and it comes true: after the commit it reads them no more."""
    site.init({"": Node(), "/old": Node(b"1")})
    tree = {"": Node(), "/old": Node(b"1", ALICES), "/x": Node(b"", ALICES), "/x/y": Node(b"", ALICES), "/z": Node()}
    sealed = site.plan(tree)
    (found,) = (each for each in examine(site.client(), sealed.plan) if each.code == "lock_out")
    assert (found.code, found.is_fatal) == ("lock_out", False)
    assert "2 more" in found.what
    said: list[str] = []
    site.apply(sealed, options=Options(single_shot="never", say=said.append))
    assert any(sentence.startswith("warning:") and "may not read" in sentence for sentence in said)
    with pytest.raises(NotPermitted):
        site.plan(tree)


# -- quotas -----------------------------------------------------------------------------------------------------------

TEN: Tree = {"": Node(counter=1), "/q": Node(b"", counter=10), **{f"/q/{n}": Node(bytes(50)) for n in range(10)}}


@pytest.mark.parametrize(
    ("limits", "words"),
    [(hard(count=5), "5 nodes, the plan needs 11"), (hard(size=120), "120 bytes, the plan needs 500")],
)
def test_a_hard_quota_that_would_be_passed(strict_site: Site, limits: str, words: str) -> None:
    strict_site.init({"": Node(counter=1), "/q": Node()})
    set_quota(strict_site, "/q", limits)
    with pytest.raises(PlanImpossible, match=words) as caught:
        strict_site.apply(strict_site.plan(TEN, limits=SMALL))
    assert caught.value.where == strict_site.path("/q")
    assert_untouched(strict_site)


# More than is in flight at a time: a server looks at what was committed before, not at what is on its way.
MANY: Tree = {"": Node(counter=1), "/q": Node(b"", counter=300), **{f"/q/{n:03}": Node(bytes(50)) for n in range(300)}}


@pytest.mark.parametrize("limits", [hard(count=5), hard(size=120)])
def test_the_control_of_quotas(strict_site: Site, limits: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without_preflight(monkeypatch)
    strict_site.init({"": Node(counter=1), "/q": Node()})
    set_quota(strict_site, "/q", limits)
    with pytest.raises(Conflict, match="QuotaExceeded"):
        strict_site.apply(strict_site.plan(MANY, limits=SMALL))
    strict_site.rollback()
    assert set(strict_site.look()) == {"", "/q"}


def test_a_quota_is_passed_on_the_way_when_deletes_come_last(
    strict_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the end there are as many as before, but the new ones come before the old ones go."""
    old = {"": Node(counter=1), "/q": Node(b"", counter=200), **{f"/q/old{n}": Node() for n in range(200)}}
    new = {"": Node(counter=1), "/q": Node(b"", counter=400), **{f"/q/new{n}": Node() for n in range(200)}}
    strict_site.init(old)
    set_quota(strict_site, "/q", hard(count=202))
    sealed = strict_site.plan(new, limits=SMALL)
    with pytest.raises(PlanImpossible, match="202 nodes, the plan needs 401"):
        strict_site.apply(sealed)
    without_preflight(monkeypatch)
    with pytest.raises(Conflict, match="QuotaExceeded"):
        strict_site.apply(sealed)
    strict_site.rollback()


def test_only_the_deepest_quota_counts(strict_site: Site) -> None:
    """An outer quota that is passed does not bind below an inner one that is not: the plan goes through."""
    strict_site.init({"": Node(counter=1), "/q": Node()})
    set_quota(strict_site, "", hard(count=3))
    set_quota(strict_site, "/q", hard(count=11))
    sealed = strict_site.plan(TEN, limits=SMALL)
    assert examine(strict_site.client(), sealed.plan) == ()
    assert strict_site.apply(sealed).epoch == 1
    assert len(strict_site.look()) == 12


def test_a_quota_above_the_scope_counts(strict_site: Site) -> None:
    strict_site.grow({"": Node()})
    set_quota(strict_site, "", hard(count=5))
    with Site(strict_site.server, strict_site.path("/scope"), eyes=strict_site.kazoo) as inner:
        inner.init({"": Node(counter=1), "/q": Node()})
        assert codes(examine(inner.client(), inner.plan(TEN).plan)) == [("quota", strict_site.root, True)]


def test_a_server_that_does_not_enforce_quotas_is_found_out(site: Site) -> None:
    """One question that a hard quota stands against is answered otherwise: a warning, and the plan goes through."""
    site.init({"": Node(counter=1), "/q": Node()})
    set_quota(site, "/q", hard(size=120))
    sealed = site.plan(TEN, limits=SMALL)
    assert codes(examine(site.client(), sealed.plan)) == [("quota", site.path("/q"), False)]
    assert site.apply(sealed).epoch == 1


def test_a_quota_that_nothing_can_be_told_of_is_taken_seriously_unless_ignored(site: Site) -> None:
    """Below its limit of nodes, no one create shows whether it binds."""
    site.init({"": Node(counter=1), "/q": Node()})
    set_quota(site, "/q", hard(count=5))
    sealed = site.plan(TEN, limits=SMALL)
    with pytest.raises(PlanImpossible, match="hard quota"):
        site.apply(sealed)
    assert site.apply(sealed, options=Options(single_shot="never", ignore_quotas=True)).epoch == 1


@pytest.mark.parametrize("text", ["count=" + "9" * 5_000, "count=5,bytes=many"])
def test_a_quota_that_no_server_can_read(strict_site: Site, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where quotas are enforced it refuses all writes below it: named before, unless nothing is written there. Control:
    without the preflight the plan fails halfway."""
    strict_site.init({"": Node(counter=1), "/q": Node()})
    set_quota(strict_site, "/q", text)
    sealed = strict_site.plan(TEN, limits=SMALL)
    with pytest.raises(PlanImpossible, match="not made of numbers") as caught:
        strict_site.apply(sealed)
    assert caught.value.where == strict_site.path("/q")
    aside = strict_site.plan({"": Node(b"new", counter=1), "/q": Node()})
    assert examine(strict_site.client(), aside.plan) == ()
    without_preflight(monkeypatch)
    with pytest.raises(ServerError, match="MarshallingError"):
        strict_site.apply(sealed)
    strict_site.rollback()


def test_a_quota_that_no_server_can_read_where_none_is_enforced(site: Site) -> None:
    """There it stands in nobody's way, which one question shows."""
    site.init({"": Node(counter=1), "/q": Node()})
    set_quota(site, "/q", "count=" + "9" * 5_000)
    sealed = site.plan(TEN, limits=SMALL)
    assert codes(examine(site.client(), sealed.plan)) == [("quota", site.path("/q"), False)]
    assert site.apply(sealed).epoch == 1


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("count=5,bytes=-1=;byteHardLimit=-1;countHardLimit=3", (5, -1, 3, -1)),  # zkCli of 3.7 and later
        ("count=5,bytes=-1", (5, -1, -1, -1)),
        ("count=0005;;count=+6,", (6, -1, -1, -1)),
        ("bytes=-7", (-1, -1, -1, -1)),
        ("", (-1, -1, -1, -1)),
        ("count=9223372036854775807", ((1 << 63) - 1, -1, -1, -1)),
        ("count=9223372036854775808", None),
        ("count=5,bytes= 6", None),
        ("count=5,bytes", None),
        (",count=5", None),
        ("count=5,bytes=1e3", None),
        ("count=" + "9" * 5_000, None),
    ],
)
def test_limits_are_read_as_servers_read_them(text: str, numbers: tuple[int, int, int, int] | None) -> None:
    """All of a text or nothing, and never an error (StatsTrack)."""
    quota = Quota("/q", text)
    assert quota.is_readable is (numbers is not None)
    read = (quota.count_soft, quota.bytes_soft, quota.count_hard, quota.bytes_hard)
    assert read == (numbers or (-1, -1, -1, -1))


def test_a_soft_quota_is_a_warning(strict_site: Site) -> None:
    strict_site.init({"": Node(counter=1), "/q": Node()})
    set_quota(strict_site, "/q", "count=5,bytes=-1")
    sealed = strict_site.plan(TEN, limits=SMALL)
    assert codes(examine(strict_site.client(), sealed.plan)) == [("quota_soft", strict_site.path("/q"), False)]
    assert strict_site.apply(sealed).epoch == 1


def test_quotas_are_read_with_what_they_limit(strict_site: Site) -> None:
    strict_site.grow({"": Node(b"abc"), "/q": Node(b"12"), "/q/x": Node(b"3"), "/qq": Node()})
    set_quota(strict_site, "", "count=7,bytes=-1")
    set_quota(strict_site, "/q", hard(size=9))
    set_quota(strict_site, "/qq", "count=1,bytes=2")
    client = strict_site.client()
    outer, inner, other = (Quota(strict_site.path(each), text) for each, text in (
        ("", "count=7,bytes=-1"), ("/q", hard(size=9)), ("/qq", "count=1,bytes=2"),
    ))  # fmt: skip
    assert read_quotas(client, strict_site.root) == (outer, inner, other)
    assert read_quotas(client, strict_site.path("/q")) == (inner,)
    assert read_quotas_around(client, strict_site.path("/q")) == (outer, inner)
    assert (inner.bytes_hard, inner.count_hard, inner.bytes_soft, outer.count_soft) == (9, -1, -1, 7)
    usage = read_usage(client, (outer, inner))
    assert usage[inner.path] == (2, 3)


# -- quotas that are carried ------------------------------------------------------------------------------------------

CARRIED = (Quota("/src", "count=20,bytes=-1"), Quota("/src/q", hard(count=11)), Quota("/src/gone", "count=1,bytes=1"))


def carrying_plan(site: Site) -> SealedPlan:
    """TEN from /src, with quotas, the last of which is on a node that is not there."""
    client = site.client()
    made = make_plan(
        snapshot_of(TEN, "/src"),
        site_snapshot(site),
        policy=Policy(quotas=True),
        limits=SMALL,
        identities=client.identities,
        quotas=CARRIED,
    )
    return SealedPlan(made, planfile.plan_hash(made))


def site_snapshot(site: Site) -> Snapshot | None:
    return scan_or_none(site.client(), Scope(site.root))


def assert_quotas_are_set(site: Site) -> None:
    client = site.client()
    quotas = read_quotas(client, site.root)
    assert quotas == (Quota(site.root, CARRIED[0].text), Quota(site.path("/q"), CARRIED[1].text))
    # The server counts by itself from then on: the inner subtree, and for the outer one all of it (3.8 [seen]).
    assert read_usage(client, quotas)[site.path("/q")] == (11, 500)


@pytest.mark.parametrize("single_shot", ["require", "never"])
def test_quotas_are_set_after_the_commit_and_bind_then(strict_site: Site, single_shot: str) -> None:
    """A quota that the tree just fits does not stand in its way, and stands in that of the next node."""
    strict_site.init({"": Node(counter=1), "/q": Node()})
    sealed = carrying_plan(strict_site)
    assert sealed.plan.left_out.quotas == ("/src/gone",)
    result = strict_site.apply(sealed, options=Options(single_shot=single_shot))
    assert (result.epoch, result.deviations) == (1, ())
    assert strict_site.record().pending is None
    assert_quotas_are_set(strict_site)
    with pytest.raises(QuotaExceededError):
        strict_site.kazoo.create(strict_site.path("/q/one-more"), b"")
    again = strict_site.apply(sealed)
    assert again.already


def test_a_crash_between_commit_and_quotas_does_not_lose_them(
    strict_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record says that they are pending; resume sets them from the journal, without the plan."""
    strict_site.init({"": Node(counter=1), "/q": Node()})
    sealed = carrying_plan(strict_site)

    def fall(*_: object) -> None:
        raise Interrupted

    with monkeypatch.context() as patched:
        patched.setattr(forward, "write_quotas", fall)
        with pytest.raises(Interrupted):
            strict_site.apply(sealed)
    record = strict_site.record()
    assert (record.state, record.epoch) == (State.STABLE, 1)
    assert record.pending is not None
    assert (record.pending.acls, record.pending.quotas) == (0, 2)
    assert str(record.pending) == "2 quotas of epoch 1"
    assert read_quotas(strict_site.client(), strict_site.root) == ()
    result = strict_site.resume(None)
    assert isinstance(result, Applied)
    assert strict_site.record().pending is None
    assert_quotas_are_set(strict_site)


def test_quotas_of_the_target_are_replaced_where_the_plan_has_some(strict_site: Site) -> None:
    strict_site.init({"": Node(counter=1), "/q": Node()})
    set_quota(strict_site, "/q", hard(count=100))
    strict_site.apply(carrying_plan(strict_site))
    assert_quotas_are_set(strict_site)


def test_quotas_that_may_not_be_set_are_found_before(fresh_zk: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """And, as the control, are named after the commit when nobody looked before."""
    with Site(fresh_zk, "/app") as site:
        site.init({"": Node(counter=1), "/q": Node()})
        site.kazoo.set_acls("/zookeeper/quota", [_kazoo_acl(Acl(READ, *WORLD)), _kazoo_acl(Acl(ALL, *ALICES_IDENTITY))])
        with pytest.raises(PlanImpossible, match="cannot be set: NoAuth"):
            site.apply(carrying_plan(site))
        assert_untouched(site)
        without_preflight(monkeypatch)
        result = site.apply(carrying_plan(site))
        assert [deviation.path for deviation in result.deviations] == [limits_path("/app"), limits_path("/app/q")]
        assert (site.record().epoch, site.record().pending) == (1, None)


# -- without a server -------------------------------------------------------------------------------------------------


def test_all_that_stands_against_a_plan_is_named_at_once() -> None:
    """Ephemerals in the way, kinds, rights, size: one error, the rest in its notes."""
    source: Tree = {
        "": Node(),
        "/huge": Node(bytes(2_000_000)),
        "/there": Node(),
        "/shut/new": Node(),
        "/shut": Node(b"", ALICES),
        "/kind": Node(kind=Kind.CONTAINER),
    }
    target: Tree = {"": Node(), "/there": EPHEMERAL, "/shut": Node(b"", ALICES), "/kind": Node()}
    with pytest.raises(PlanImpossible) as caught:
        make_plan(snapshot_of(source, "/app"), snapshot_of(target, "/app"), identities=[MY_IDENTITY])
    text = "\n".join((str(caught.value), *caught.value.__notes__))
    for words in (
        "/app/there: 1 live ephemeral",
        "/app/kind: its kind",
        "/app/shut: 1 node",
        "/app/huge: this node needs",
    ):
        assert words in text


def test_all_nodes_that_are_too_large_are_named() -> None:
    """The heaviest first, since the servers are asked about that one."""
    source: Tree = {"": Node(), **{f"/n{n}": Node(bytes(1_500_000 + n)) for n in range(3)}}
    with pytest.raises(NodeTooLarge) as caught:
        make_plan(snapshot_of(source, "/app"), None)
    assert caught.value.where == "/app/n2"
    assert ["/app/n1" in note or "/app/n0" in note for note in caught.value.__notes__] == [True, True]


def test_containers_and_short_lives_are_warned_of() -> None:
    source: Tree = {
        "": Node(),
        "/full": Node(kind=Kind.CONTAINER),
        "/full/x": Node(),
        "/empty": Node(kind=Kind.CONTAINER),
        "/short": Node(kind=Kind.TTL, ttl_ms=1_000),
        "/long": Node(kind=Kind.TTL, ttl_ms=preflight.TTL_MS_SHORT),
    }
    found = tuple(warnings_of(make_plan(snapshot_of(source, "/app"), None), ()))
    assert codes(found) == [("container_empty", "/app/empty", False), ("ttl_short", "/app/short", False)]


def test_counters_that_stay_higher_are_warned_of() -> None:
    source, target = snapshot_of({"": Node(counter=2)}, "/app"), snapshot_of({"": Node(counter=9)}, "/app")
    assert codes(tuple(warnings_of(make_plan(source, target), ()))) == [("counter_higher", "/app", False)]


def test_what_no_credential_helps_with_decides_the_exit_code() -> None:
    findings = [Finding("permission", "/a", "denied", "", True), Finding("scheme", "/b", "unknown", "", True)]
    with pytest.raises(PlanImpossible) as caught:
        refuse(findings)
    assert caught.value.__notes__ == ["  also: /a: denied"]
    with pytest.raises(NotPermitted):
        refuse(findings[:1])
    refuse([Finding("quota_soft", "/a", "full", "")])


def test_a_counter_is_raised_by_a_child_that_a_quota_must_admit() -> None:
    """A quota of as many nodes as there are has no room for the child that raises a counter."""
    source, target = snapshot_of({"": Node(counter=5)}, "/app"), snapshot_of({"": Node()}, "/app")
    plan = make_plan(source, target)
    assert [f.code for f in quota_findings(plan, [Quota("/app", hard(count=1))], {"/app": (1, 0)})] == ["quota"]
    assert not list(quota_findings(plan, [Quota("/app", hard(count=2))], {"/app": (1, 0)}))
