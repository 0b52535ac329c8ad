"""A guarded command comes back after an epoch only if that has moved the tree no further than its budget.

Method: the real program, epochs that replace few or many of twenty hosts, SIGUSR1 of an operator, churn while it
runs. A guard that does not keep what its command saw last must be noticed.
"""

from __future__ import annotations

import signal
from contextlib import closing
from functools import partial

import pytest

from tests.guards import SLEEPER, Guarded, entry_of, python
from tests.proxy import Fate, Proxy, cut_at
from tests.scopes import ALICE, ALICES_IDENTITY, Site, settled
from tests.test_guard_registration import Bench
from tests.trees import Node, Tree
from zkmig.apply.forward import Options
from zkmig.epoch.budgets import GUARD_CHARS_MAX, BudgetNote, Difference, guard_reader
from zkmig.errors import BadInput
from zkmig.guard.events import Acknowledge, Acknowledged, Doubtful, NotRegistered, Register, Registered, Seen
from zkmig.guard.limits import Limits
from zkmig.reader.budget import Budget
from zkmig.wire.requests import OP_GET_CHILDREN, OP_GET_CHILDREN2, OP_MULTI_READ

HOSTS = 20
READS = (OP_GET_CHILDREN, OP_GET_CHILDREN2, OP_MULTI_READ)
AS_PROGRAM = "import sys; from zkmig.cli.main import main; sys.argv[0] = 'zkmig'; main()"

# What is left out of a guard, told to a Python that then is one.
FORGETS_WHAT_IT_SAW = """
from zkmig.guard.limits import Limits
Limits.at_end = lambda *_: None
"""


def hosts(moved: int, count: int = HOSTS) -> Tree:
    """A registry of hosts, of which the first few have other data."""
    named = {f"/hosts/{number:02}": Node(b"new" if number < moved else b"old") for number in range(count)}
    return settled({"": Node(b""), "/hosts": Node(b""), **named})


def budget(site: Site, limit: str = "10%") -> tuple[str, str]:
    return "--budget", f"{site.root}/hosts/*={limit}"


def note(site: Site) -> BudgetNote:
    found = BudgetNote.decode(site.kazoo.get(site.names.budget(guard_reader("unit")))[0])
    assert found is not None
    return found


def migrate(site: Site, wanted: Tree) -> None:
    site.apply(site.plan(wanted), site.record().epoch + 1, options=Options("never"))


def test_within_its_budget_it_comes_back_by_itself(site: Site, guarded: Guarded) -> None:
    site.init(hosts(0))
    guarded.start(*budget(site))
    first = guarded.await_up()
    migrate(site, hosts(2))
    assert guarded.await_running() != first
    assert [(one.nodes, one.changed) for one in note(site).patterns] == [(HOSTS, 2)]
    assert not note(site).overrides


def test_beyond_it_the_command_stays_down_until_an_operator_says_otherwise(site: Site, guarded: Guarded) -> None:
    """Also over a restart of the guard; that it was overridden, and by how much, is on record."""
    site.init(hosts(0))
    process = guarded.start(*budget(site))
    guarded.await_up()
    migrate(site, hosts(3))
    guarded.await_phase("down", "3 changed")
    process.terminate()
    process.wait()
    process = guarded.start(*budget(site))
    guarded.await_phase("down", "3 changed")
    down = entry_of(site.kazoo.get(f"{site.names.guards}/unit")[0]).down
    assert down is not None
    assert down.over_budget
    process.send_signal(signal.SIGUSR1)
    guarded.await_running()
    (overridden,) = note(site).overrides
    assert overridden.why == "SIGUSR1 to the guard"
    assert overridden.epoch == 1
    assert overridden.differed[0].changed == 3
    migrate(site, hosts(4))  # what was overridden is the new baseline
    guarded.await_running()
    assert len(note(site).overrides) == 1


def test_leaving_stay_down_does_not_override_the_budget(site: Site, guarded: Guarded) -> None:
    site.init(hosts(0))
    process = guarded.start(*budget(site), "--after-commit", "stay-down")
    guarded.await_up()
    migrate(site, hosts(9))
    guarded.await_phase("down", "it is to stay down")
    process.send_signal(signal.SIGUSR1)
    guarded.await_phase("down", "9 changed")
    process.send_signal(signal.SIGUSR1)
    guarded.await_running()
    assert len(note(site).overrides) == 1


def churn(site: Site, guarded: Guarded, program: str = AS_PROGRAM) -> None:
    """The command sees half of the hosts replaced while it runs, and then a small epoch."""
    site.init(hosts(0))
    guarded.start(*budget(site), command=SLEEPER, program=python(program))
    guarded.await_up()
    for number in range(10):
        site.kazoo.set(f"{site.root}/hosts/{number:02}", b"new")
    migrate(site, hosts(11))


def test_what_changed_while_the_command_ran_does_not_count(site: Site, guarded: Guarded) -> None:
    churn(site, guarded)
    guarded.await_running()


def test_a_guard_that_forgets_what_its_command_saw_last_is_noticed(site: Site, guarded: Guarded) -> None:
    churn(site, guarded, FORGETS_WHAT_IT_SAW + AS_PROGRAM)
    guarded.await_phase("down", "11 changed")


def test_within_one_epoch_nothing_is_compared(site: Site, guarded: Guarded) -> None:
    """A service manager starts it anew as often as it likes, whatever others have changed meanwhile."""
    site.init(hosts(0))
    process = guarded.start(*budget(site))
    guarded.await_up()
    process.terminate()
    assert process.wait() == 3
    for number in range(HOSTS):
        site.kazoo.set(f"{site.root}/hosts/{number:02}", b"other")
    guarded.start(*budget(site))
    guarded.await_running()


def test_an_emptied_registry_is_beyond_every_share(site: Site, guarded: Guarded) -> None:
    site.init(hosts(0))
    guarded.start(*budget(site, "99%"))
    guarded.await_up()
    migrate(site, settled({"": Node(b""), "/hosts": Node(b"")}))
    guarded.await_phase("down", "20 removed")


def test_a_budget_of_nothing_is_said_to_be_one(site: Site, guarded: Guarded) -> None:
    """Where it runs, and in the log: a mistyped pattern would keep nothing down."""
    site.init(hosts(0))
    guarded.start("--budget", f"{site.root}/hots/*=10%")
    guarded.await_phase("running", f"no znode matches its budget {site.root}/hots/*")
    assert "hots" in guarded.stderr


def test_a_budget_outside_the_scope_is_bad_input(site: Site, guarded: Guarded) -> None:
    site.init(hosts(0))
    process = guarded.start("--budget", "/elsewhere/*=10%")
    assert process.wait(30) == 2
    assert "/elsewhere" in guarded.stderr
    assert not site.kazoo.exists(f"{site.names.guards}/unit")


@pytest.mark.parametrize("percent", ["29", "7", "1.1", "0.07", "57", "100"])
def test_a_share_is_what_is_written(percent: str) -> None:
    """So many in ten thousand of ten thousand, to the last one."""
    limit = Budget.parse(f"/hosts/*={percent}%")
    allowed = round(float(percent) * 100)
    assert limit.allows(Difference("/hosts/*", 10_000, 0, 0, allowed))
    assert not limit.allows(Difference("/hosts/*", 10_000, 0, 0, allowed + 1))


@pytest.mark.parametrize("text", ["nan%", "inf%", "x%", "-1%", "%", "1%%"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        Budget.parse(f"/hosts/*={text}")


def test_a_budget_that_another_identity_keeps_is_named(site: Site) -> None:
    """Its baseline may be read by that identity alone; without it nothing can be compared, and nothing starts."""
    site.init(hosts(0))
    budgets = [Budget(f"{site.root}/hosts/*", share=0.1)]
    auth = ((ALICE.scheme, ALICE.secret.decode()),)
    hers = Bench(site, site.server.hosts, auth=auth, who=(ALICES_IDENTITY,), instance="hers", budgets=budgets)
    one = Bench(site, site.server.hosts, budgets=budgets)
    with closing(hers.registration), closing(one.registration):
        hers.registration.start()
        assert hers.answered(Register(hers.wait(Seen), 0, "runs")) == Registered()
        assert hers.answered(Acknowledge("ended", 0, None)) == Acknowledged()
        one.registration.start()
        answer = one.answered(Register(one.wait(Seen), 0, "runs"))
    assert isinstance(answer, NotRegistered)
    assert answer.is_forbidden
    assert "not permitted to read what the command last ran on" in answer.why
    assert site.names.seen(guard_reader("unit")) in answer.why


# -- registrations under which nothing ran ----------------------------------------------------------------------------


def _admits(epoch: int, seen: Seen) -> bool:
    return seen.epoch == epoch and seen.admits


def creep(site: Site, proxy: Proxy | None) -> None:
    """Epochs that move two hosts of twenty each; what was registered under them was never started, as when the next
    migration begins before. With a proxy, no registration is answered; only the third is told to be."""
    site.init(hosts(0))
    server = site.server.hosts if proxy is None else proxy.hosts
    one = Bench(site, server, poll_s=0.3, budgets=[Budget(f"{site.root}/hosts/*", share=0.1)])
    try:
        one.registration.start()
        assert one.answered(Register(one.wait(Seen), 0, "runs")) == Registered()
        assert one.answered(Acknowledge("ended", 0, None)) == Acknowledged()
        for epoch, moved in ((1, 2), (2, 4)):
            migrate(site, hosts(moved))
            scope = one.wait(Seen, partial(_admits, epoch))
            if proxy is not None:
                proxy.judge = cut_at(proxy.writes, Fate.UNANSWERED)
            answer = one.answered(Register(scope, epoch, "runs"))
            if epoch == 1:
                assert answer == (Registered() if proxy is None else Doubtful())
                assert one.answered(Acknowledge("a migration has begun", 0, None, not_begun=True)) == Acknowledged()
        assert isinstance(answer, NotRegistered), "the budget is spent by what never ran"
        assert "4 changed" in answer.why
    finally:
        one.registration.close()


def test_what_was_registered_and_not_started_does_not_spend_the_budget(site: Site) -> None:
    creep(site, None)


def test_nor_does_a_registration_in_doubt(site: Site) -> None:
    with Proxy(site.server.port) as proxy:
        creep(site, proxy)


def test_were_it_not_put_back_it_would(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Limits, "take_back", lambda _self: None)
    with pytest.raises(AssertionError, match="never ran"):
        creep(site, None)


# -- what takes long --------------------------------------------------------------------------------------------------


def test_a_view_that_takes_too_long_does_not_keep_stopped_from_being_written(site: Site, guarded: Guarded) -> None:
    """At the end, when a guard has five seconds: reads of the tree are kept back, nothing else."""
    site.init(hosts(0))
    with Proxy(site.server.port) as proxy:
        process = guarded.start(*budget(site), hosts=proxy.hosts)
        guarded.await_up()
        proxy.judge = lambda opcode, _: Fate.HELD if opcode in READS else Fate.PASS
        assert guarded.end(process) == 3
        assert entry_of(site.kazoo.get(f"{site.names.guards}/unit")[0]).stopped, guarded.stderr


def test_every_guard_has_a_readers_name_of_its_own() -> None:
    units = ["web1.scaler", "web1@scaler", "web1_scaler", "web1:scaler", "x" * 199, "x" * 200, "x" * GUARD_CHARS_MAX]
    names = {guard_reader(unit) for unit in units}
    assert len(names) == len(units)
    assert all(len(name) <= 64 for name in names)
    assert guard_reader("web1.scaler") == "guard.web1.scaler"
