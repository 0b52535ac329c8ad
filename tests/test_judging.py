"""The outage as a policy: what empties a server set or takes away more than 10 % of the hosts is written by nobody.

Method: a tree of hosts, server sets that name them and services that name a set, on a real server, with the rules of
that site. A plan that breaks one is refused when it is made. A sound plan meets a tree that somebody else tampers with
at each stage of its way: before it is applied, while it waits for others, and among its batches; after the last
judgement: `test_judging_commit.py`. Negative control: with the judgement switched off the unsound tree is committed.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from kazoo.security import ACL as KazooACL
from kazoo.security import Id

from tests.interruptions import when_said
from tests.ruled_site import (
    BATCHES,
    HOSTS,
    among_the_batches,
    empty_spare,
    fill_spare,
    plan_of_many_batches,
    policy,
    take_hosts,
    tree,
)
from tests.scopes import ALICES_IDENTITY, Site
from zkmig.apply.engine import SealedPlan
from zkmig.apply.forward import Options
from zkmig.apply.judging import Rulings
from zkmig.epoch.attempts import read_attempts
from zkmig.epoch.owner import Migrator
from zkmig.epoch.transitions import State
from zkmig.errors import EXIT_CONFLICT, EXIT_REFUSED, BadInput, Conflict, NotPermitted, RuleViolated, Stopped
from zkmig.model.acl import ALL
from zkmig.plan import planfile
from zkmig.policy.captures import CapturePattern
from zkmig.policy.policy import Policy
from zkmig.policy.rules import JsonData, NeverEmpty, Rules, Unchanged
from zkmig.rules.pychecks import pinned
from zkmig.rules.violation import Violation
from zkmig.stop import StopRequest


@pytest.fixture
def sealed(site: Site) -> SealedPlan:
    return plan_of_many_batches(site)


# -- at planning ------------------------------------------------------------------------------------------------------


def test_a_plan_that_empties_a_set_is_refused(site: Site) -> None:
    """One member left is sound, none is not; the violation names rule, path and cause, and no data."""
    site.init(tree())
    assert site.plan(tree(web=1), limits=BATCHES, policy=policy(site)).plan.soundness.verdict.is_sound
    with pytest.raises(RuleViolated) as caught:
        site.plan(tree(web=0), limits=BATCHES, policy=policy(site))
    assert caught.value.exit_code == EXIT_REFUSED
    assert "sets: " in caught.value.what
    assert f"{site.path('/sets/web')}: it had children, and has none" in caught.value.what
    assert "3 of its children are deleted by this plan" in caught.value.what


def test_a_plan_that_removes_too_many_hosts_is_refused(site: Site) -> None:
    """Two of twenty hosts may go, three may not."""
    site.init(tree())
    assert site.plan(tree(HOSTS - 2), limits=BATCHES, policy=policy(site)).plan.soundness.verdict.is_sound
    with pytest.raises(RuleViolated, match=r"3 of 20 are gone .*at most 2 \(10 %\) may go"):
        site.plan(tree(HOSTS - 3), limits=BATCHES, policy=policy(site))


def test_a_reference_to_nowhere_is_refused_and_not_shown(site: Site) -> None:
    """The set that a service names has to be there; what it names is data, of which only length and digest are told."""
    site.init(tree())
    with pytest.raises(RuleViolated) as caught:
        site.plan(tree(active=b"CANARY-nowhere"), limits=BATCHES, policy=policy(site))
    told = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert site.path("/services/site") in told
    assert "14 bytes, sha256" in told
    assert "CANARY" not in told


# -- before the first write -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("single_shot", ["never", "require"])
@pytest.mark.parametrize("dry_run", [False, True])
def test_tampered_with_before_it_is_applied(site: Site, sealed: SealedPlan, single_shot: str, dry_run: bool) -> None:
    """The plan writes no path that has changed, so that it is not stale; where it leads to is no longer sound."""
    empty_spare(site)
    before = site.look()
    with pytest.raises(RuleViolated, match="sets/spare: it had children, and has none; others have changed") as caught:
        site.apply(sealed, options=Options(single_shot=single_shot), dry_run=dry_run)
    assert caught.value.exit_code == EXIT_REFUSED
    assert site.look() == before
    assert site.record().state is State.STABLE


@pytest.mark.parametrize("single_shot", ["never", "require"])
def test_tampered_with_while_it_waits(site: Site, sealed: SealedPlan, single_shot: str) -> None:
    """Sound at first, and not after the drain: aborted before the first write; the history tells no digest."""
    options = Options(single_shot=single_shot, say=when_said("draining", lambda: empty_spare(site)))
    with pytest.raises(RuleViolated):
        site.apply(sealed, options=options)
    assert site.record().state is State.STABLE
    last = site.record().last
    assert last is not None
    assert last.outcome == "aborted"
    assert last.reason == f"{site.path('/sets/spare')}: against the rule 'sets'"
    assert site.look()["/hosts/h00"].data == b"r1"


def test_a_check_that_fails_to_load_while_it_waits(site: Site, tmp_path: Path) -> None:
    """Who applies is told what it raised; the record, which everybody reads, that it could not be loaded."""
    down = tmp_path / "down"
    (tmp_path / "checks.py").write_text(
        "from pathlib import Path\n"
        f"if Path({str(down)!r}).exists(): raise OSError('canary')\n"
        "def check(tree): return []\n"
    )
    checked = Policy(rules=Rules(checks=(pinned("inventory", "checks.py:check", str(tmp_path)),)))
    site.init(tree())
    plan = site.plan(tree(rack=b"r2"), limits=BATCHES, policy=checked)
    with pytest.raises(BadInput, match="the check 'inventory' cannot be loaded: OSError: canary"):
        site.apply(plan, options=Options(single_shot="never", say=when_said("draining", down.touch)))
    last = site.record().last
    assert last is not None
    assert (last.outcome, last.reason) == ("aborted", "the check 'inventory' cannot be loaded")


def test_a_share_counts_what_others_took(site: Site, sealed: SealedPlan) -> None:
    """The plan takes one host of twenty and somebody else two: together that is too much, though each alone is not."""
    site.kazoo.create(site.path("/hosts/h77"), b"new since")  # makes up for nothing: it was not there
    take_hosts(site, 19)  # as the plan would: so it is stale for its own delete, which says more
    with pytest.raises(Exception, match="gone"):
        site.apply(sealed)
    site.kazoo.create(site.path("/hosts/h19"), b"r1")
    plan = site.plan(tree(HOSTS - 1), limits=BATCHES, policy=policy(site))  # deletes h77 and h19, writes no other host
    take_hosts(site, 17, 18)
    with pytest.raises(RuleViolated, match=r"4 of 21 are gone"):
        site.apply(plan)


# -- among the writes, and before the commit --------------------------------------------------------------------------


def test_tampered_with_among_the_batches(site: Site, sealed: SealedPlan) -> None:
    """Nothing is committed; the record names rule and path; the rollback takes everything back."""
    before = site.look()
    with pytest.raises(Conflict, match=r"the tree as written is not sound: sets: .*spare") as caught:
        site.apply(sealed, options=among_the_batches(lambda: empty_spare(site)))
    assert caught.value.exit_code == EXIT_CONFLICT
    assert caught.value.may_go_on
    record = site.record()
    assert record.state is State.OPEN
    assert record.conflict is not None
    assert (record.conflict.path, record.conflict.operation) == (site.path("/sets/spare"), "rules")
    assert record.conflict.reason == "against the rule 'sets'"
    site.rollback()
    fill_spare(site)
    assert site.record().state is State.STABLE
    after = site.look()
    assert {path: seen.data for path, seen in after.items()} == {path: seen.data for path, seen in before.items()}


def test_a_mended_tree_is_committed_by_resume(site: Site, sealed: SealedPlan) -> None:
    """What stood against the commit is put right; until then each resume says the same."""
    with pytest.raises(Conflict):
        site.apply(sealed, options=among_the_batches(lambda: empty_spare(site)))
    with pytest.raises(Conflict, match="not sound"):
        site.resume(sealed)
    fill_spare(site)
    site.resume(sealed)
    record = site.record()
    assert (record.state, record.epoch, record.conflict) == (State.STABLE, 1, None)
    assert site.look()["/hosts/h00"].data == b"r2"


def test_without_the_judgement_it_is_committed(site: Site, sealed: SealedPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: nobody looks at the tree as written, and readers get a site with an empty server set."""

    def not_judged(self: Rulings) -> list[Violation]:
        self.last = None
        return []

    monkeypatch.setattr(Rulings, "written", not_judged)
    site.apply(sealed, options=among_the_batches(lambda: empty_spare(site)))
    assert site.record().epoch == 1
    assert "/sets/spare/m0" not in site.look()


def private(site: Site, relative: str) -> None:
    """Somebody creates a node that the migrator may not read."""
    site.kazoo.create(site.path(relative), b"", acl=[KazooACL(ALL, Id(*ALICES_IDENTITY))])


@pytest.mark.parametrize("single_shot", ["never", "require"])
def test_what_may_not_be_read_and_is_no_matter_is_left_out(site: Site, sealed: SealedPlan, single_shot: str) -> None:
    """Somebody's lock that no rule speaks of keeps no epoch open, and is named; below what rules speak of it does."""
    said: list[str] = []

    def say(sentence: str) -> None:
        said.append(sentence)
        if sentence == "draining":
            private(site, "/other/lock")

    site.apply(sealed, options=Options(single_shot=single_shot, say=say))
    assert site.record().epoch == 1
    lock = site.path("/other/lock")
    assert f"{lock} may not be read; no rule speaks of it, and it is left out" in said


@pytest.mark.parametrize("place", ["/sets/web/m9", "/hosts/h99", "/services/x"])
def test_what_may_not_be_read_and_matters_is_judged_by_nobody(site: Site, sealed: SealedPlan, place: str) -> None:
    with pytest.raises(NotPermitted, match="not permitted"):
        site.apply(sealed, options=among_the_batches(lambda: private(site, place)))
    assert site.record().state is State.OPEN


# -- what everybody reads ---------------------------------------------------------------------------------------------


def test_nothing_public_tells_data_or_its_digest(site: Site, sealed: SealedPlan) -> None:
    """A digest tells who can guess. The value that breaks the rule is in no record and no note."""
    with pytest.raises(Conflict) as caught:
        site.apply(
            sealed, options=among_the_batches(lambda: site.kazoo.set(site.path("/services/site"), b"CANARY-gone"))
        )
    digest = caught.value.what.partition("sha256 ")[2][:12]
    assert len(digest) == 12
    assert "CANARY" not in str(caught.value)
    public = repr(site.record()) + repr(read_attempts(site.client(), site.names, site.record()))
    assert digest not in public
    assert "CANARY" not in public


def test_no_digest_of_what_a_policy_masks_is_told(site: Site) -> None:
    """A short secret can be guessed from a digest; and what it names is data. Negative control: without the mask both
    are told."""
    site.init(tree())
    wanted = {path: node for path, node in tree(active=b"spare").items() if not path.startswith("/sets/spare")}
    wanted["/sets"] = wanted["/sets"]._replace(counter=2)
    told = []
    for masks in ((), (CapturePattern.parse(site.path("/services/*")),)):
        with pytest.raises(RuleViolated) as caught:
            site.plan(wanted, limits=BATCHES, policy=dataclasses.replace(policy(site), masks=masks))
        lines = [str(caught.value), *getattr(caught.value, "__notes__", [])]
        told.append(next(line for line in lines if "service: " in line))
    assert "sha256" in told[0]
    assert "sets/spare is deleted" in told[0]
    assert "sha256" not in told[1]
    assert "spare" not in told[1]


def test_rules_are_judged_on_the_tree_that_they_speak_of(site: Site) -> None:
    """A rule about another tree would find every plan sound; that is bad input."""
    site.init(tree())
    elsewhere = Policy(rules=Rules(guardrails=(NeverEmpty("elsewhere", CapturePattern.parse("/elsewhere/*")),)))
    with pytest.raises(BadInput, match="lies outside of what is judged"):
        site.plan(tree(web=0), limits=BATCHES, policy=elsewhere)


def test_rules_survive_the_plan_file_and_a_second_migrator(site: Site, sealed: SealedPlan, tmp_path: object) -> None:
    """The plan as read from its file is judged the same: rules, baseline and what was left out are in it."""
    path = f"{tmp_path}/p.zkplan"
    planfile.write(sealed.plan, path)
    plan, digest = planfile.read(path)
    assert plan.soundness == sealed.plan.soundness
    empty_spare(site)
    with pytest.raises(RuleViolated, match="spare"):
        site.apply(SealedPlan(plan, digest, path))


def test_one_batch_or_many_make_no_difference(site: Site) -> None:
    """The first migration of a tree that is not there yet is judged like any other."""
    site.init(None, allow_empty=True)
    plan = site.plan(tree(), limits=BATCHES, policy=policy(site))
    site.apply(plan)
    assert site.record().epoch == 1


def test_a_long_judgement_shows_that_the_work_gets_on(
    site: Site, sealed: SealedPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rules over a large tree take longer than others wait for a sign of life. Method: the migrator is heard to beat
    between any two rules, and a stop that is asked for there ends it before the commit."""
    beats, stop = list[str](), StopRequest()
    beat = Migrator.beat

    def beating(self: Migrator) -> None:
        beats.append("beat")
        beat(self)

    def asked_to_stop(self: Rulings) -> object:
        beats.clear()
        stop.request("SIGTERM", 143)
        return written(self)

    written = Rulings.written
    with monkeypatch.context() as patched:
        patched.setattr(Migrator, "beat", beating)
        patched.setattr(Rulings, "written", asked_to_stop)
        with pytest.raises(Stopped):
            site.apply(sealed, stop=stop)
    assert site.record().state is State.OPEN
    with monkeypatch.context() as patched:
        patched.setattr(Migrator, "beat", beating)
        beats.clear()
        site.resume(sealed)
    assert len(beats) >= len(list(sealed.plan.soundness.rules))


def test_the_record_holds_the_begin_and_the_end_of_long_names(site: Site) -> None:
    """A record of a megabyte would be everybody's. Nothing limits the name of a rule."""
    site.init(tree())
    unchanged = Unchanged("n" * 100_000, CapturePattern.parse(site.path("/other/**")))
    plan = site.plan(tree(rack=b"r2"), limits=BATCHES, policy=Policy(rules=Rules(guardrails=(unchanged,))))
    with pytest.raises(Conflict):
        site.apply(plan, options=among_the_batches(lambda: site.kazoo.create(site.path("/other/new"), b"")))
    conflict = site.record().conflict
    assert conflict is not None
    assert conflict.path == site.path("/other/new")
    assert len(conflict.reason) <= 500


@pytest.mark.parametrize("is_kept", [True, False])
def test_what_is_left_out_of_a_tree_to_come_stays_left_out(site: Site, is_kept: bool) -> None:
    """An exclude below a root that is not there yet: whoever writes there meanwhile is nobody's concern. Negative
    control: a plan that does not keep it."""
    site.init(None, allow_empty=True)
    rules = Rules(guardrails=(JsonData("form", CapturePattern.parse(site.path("/**/{name}.json"))),))
    sealed = site.plan(tree(), limits=BATCHES, policy=Policy(excludes=(site.path("/other"),), rules=rules))
    if not is_kept:
        plan = dataclasses.replace(sealed.plan, soundness=dataclasses.replace(sealed.plan.soundness, excludes=()))
        sealed = SealedPlan(plan, planfile.plan_hash(plan))

    def write_beside() -> None:
        site.kazoo.create(site.path("/other/x.json"), b"no JSON", makepath=True)

    options = among_the_batches(write_beside)
    if is_kept:
        site.apply(sealed, options=options)
    else:
        with pytest.raises(Conflict, match=r"form: .*not JSON"):
            site.apply(sealed, options=options)
    assert site.record().epoch == int(is_kept)
