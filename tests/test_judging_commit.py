"""The tree is tampered with between the last judgement and the commit: the transaction that commits finds out.

Method: somebody else writes when the verdict has been given, on a real server. Negative controls: with the checks of
what the verdict relied on switched off, the unsound tree is committed.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.ruled_site import (
    BATCHES,
    empty_spare,
    plan_of_many_batches,
    policy,
    take_hosts,
    tree,
)
from tests.scopes import Site
from zkmig.apply import forward
from zkmig.apply.engine import SealedPlan
from zkmig.apply.forward import Options
from zkmig.apply.judging import Rulings
from zkmig.epoch.transitions import State
from zkmig.errors import Conflict, RuleViolated
from zkmig.plan.plan import Limits
from zkmig.policy.captures import CapturePattern
from zkmig.policy.policy import Policy
from zkmig.policy.rules import JsonData, Rules
from zkmig.wire.requests import Check


@pytest.fixture
def sealed(site: Site) -> SealedPlan:
    return plan_of_many_batches(site)


def after_the_judgement(name: str, act: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Act when the last judgement before the commit has been given, once; how often it was given in all."""
    judge, given = getattr(Rulings, name), list[int]()
    last = 1 if name == "written" else 2  # predicted: before the journal, and after the drain

    def judging(self: Rulings) -> object:
        found = judge(self)
        given.append(len(given) + 1)
        if given[-1] == last:
            act()
        return found

    monkeypatch.setattr(Rulings, name, judging)
    return given


def test_tampered_with_after_the_judgement(site: Site, sealed: SealedPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit itself finds out: the last member of a set has to be there in the transaction that commits."""
    given = after_the_judgement("written", lambda: empty_spare(site), monkeypatch)
    with pytest.raises(Conflict, match=r"not sound: sets: .*spare"):
        site.apply(sealed)
    assert given == [1, 2]
    assert site.record().state is State.OPEN


def test_tampered_with_before_the_single_shot(site: Site, sealed: SealedPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one transaction finds out likewise, and nothing is written."""
    given = after_the_judgement("predicted", lambda: empty_spare(site), monkeypatch)
    with pytest.raises(RuleViolated, match="spare"):
        site.apply(sealed, options=Options(single_shot="require"))
    assert given == [1, 2]  # the third has raised
    last = site.record().last
    assert last is not None
    assert last.outcome == "aborted"
    assert site.look()["/hosts/h00"].data == b"r1"


@pytest.mark.parametrize(("name", "single_shot"), [("written", "never"), ("predicted", "require")])
def test_without_the_checks_it_is_committed(
    site: Site, sealed: SealedPlan, name: str, single_shot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: the commit does not check what the verdict relied on."""

    def none_fits(_checks: object, _room: int) -> list[Check]:
        return []

    monkeypatch.setattr(forward, "fitting", none_fits)
    after_the_judgement(name, lambda: empty_spare(site), monkeypatch)
    site.apply(sealed, options=Options(single_shot=single_shot))
    assert site.record().epoch == 1
    assert "/sets/spare/m0" not in site.look()


@pytest.mark.parametrize(("name", "single_shot"), [("written", "never"), ("predicted", "require")])
def test_what_does_no_harm_is_judged_again_and_committed(
    site: Site, sealed: SealedPlan, name: str, single_shot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service is pointed at another set in between; that is sound too, so it costs a second look and no more."""
    given = after_the_judgement(name, lambda: site.kazoo.set(site.path("/services/site"), b"spare"), monkeypatch)
    site.apply(sealed, options=Options(single_shot=single_shot))
    assert given[-1] == (2 if name == "written" else 3)
    assert site.record().epoch == 1
    assert site.look()["/services/site"].data == b"spare"


def test_what_keeps_changing_is_left_to_people(site: Site, sealed: SealedPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody writes what the rules look at all the time: after some looks the migration stops and says so."""
    judge = Rulings.written

    def judging(self: Rulings) -> object:
        found = judge(self)
        site.kazoo.set(site.path("/services/site"), b"web")
        return found

    with monkeypatch.context() as patched:
        patched.setattr(Rulings, "written", judging)
        with pytest.raises(Conflict, match="keeps changing while it is judged") as caught:
            site.apply(sealed)
    assert caught.value.may_go_on
    site.resume(sealed)
    assert site.record().epoch == 1


def test_a_node_that_its_owner_writes_all_the_time_keeps_no_epoch_open(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A heartbeat under a rule of its own form, written between every judgement and its commit."""
    site.init(tree())
    form = JsonData("form", CapturePattern.parse(site.path("/sets/spare/*")))
    plan = site.plan(tree(rack=b"r2"), limits=BATCHES, policy=Policy(rules=Rules(guardrails=(form,))))
    judge, given = Rulings.written, list[int]()

    def judging(self: Rulings) -> object:
        found = judge(self)
        given.append(len(given))
        site.kazoo.set(site.path("/sets/spare/m0"), b'{"host": "h00", "beat": %d}' % len(given))
        return found

    monkeypatch.setattr(Rulings, "written", judging)
    site.apply(plan)
    assert site.record().epoch == 1
    assert 1 < len(given) < forward.JUDGED_MAX


def test_foreign_writes_of_a_plan_path_stay_conflicts(
    site: Site, sealed: SealedPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that the plan has written, and that a rule relies on, is deleted in between: that is nobody's rule to
    forgive, though two of twenty hosts may go."""
    after_the_judgement("written", lambda: take_hosts(site, 5), monkeypatch)
    with pytest.raises(Conflict, match="stopped before its commit") as caught:
        site.apply(sealed)
    assert caught.value.where == site.path("/hosts/h05")
    assert not caught.value.may_go_on


def test_a_large_single_shot_checks_what_it_relied_on(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """One transaction beyond a usual batch has room for checks too, where the servers take it. Method: somebody empties
    a set after the last judgement."""
    site.init(tree())
    large = site.plan(tree(rack=b"r" * 4000), limits=Limits(), policy=policy(site))
    assert large.plan.single_shot_bytes > large.plan.limits.batch_bytes_max
    after_the_judgement("predicted", lambda: empty_spare(site), monkeypatch)
    with pytest.raises(RuleViolated, match="spare"):
        site.apply(large, options=Options(single_shot="require"))
    assert site.record().epoch == 0
