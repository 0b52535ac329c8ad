"""An action on a view that differs too far from the last one acted on is refused, whoever acts under the reader's name
and however often it is started again.

Method: scopes on real servers whose hosts kazoo adds, changes and takes away between two actions; answers are lost by a
proxy or a stopped server. With the baseline not stored, stored apart from the admission, or not settled after a loss,
the same tests fail: that is tried too.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from kazoo.exceptions import NoAuthError

from tests.proxy import Fate, Proxy, cut_at
from tests.scopes import ALICE, ALICES_IDENTITY, ME, MY_IDENTITY, Site, settled
from tests.test_acting import BOB, BOBS_IDENTITY, await_connected
from tests.test_prune import remove
from tests.trees import Node, Tree
from zkmig.apply.status import read_status
from zkmig.cli.status import screen
from zkmig.dev import Server
from zkmig.epoch.budgets import BudgetNote, read_budgets
from zkmig.epoch.control import Roles, init_scope
from zkmig.epoch.record import Record
from zkmig.errors import ActingRefused, BadInput, Forbidden, Unavailable
from zkmig.model.acl import WORLD
from zkmig.reader import Budget, BudgetExceeded, Reader, View
from zkmig.reader import ledger as ledgers
from zkmig.reader.baseline import Baseline, Keeping, Stored
from zkmig.reader.ledger import Ledger
from zkmig.reader.part import Part, part_of
from zkmig.wire.credential import Credential

HOSTS = 20


def tree(hosts: int = HOSTS) -> Tree:
    return settled(
        {"": Node(b""), "/other": Node(b"1"), "/hosts": Node(b""), **{f"/hosts/{n}": Node(b"") for n in range(hosts)}}
    )


@contextmanager
def reader_of(
    site: Site, *budgets: Budget, auth: Credential | None = ME, name: str = "scaler", hosts: str | None = None
) -> Iterator[Reader]:
    """A reader whose budget is one host, unless others are given."""
    wanted = budgets or (Budget(f"{site.root}/hosts/*", count=1),)
    with Reader(
        hosts or site.server.hosts,
        site.names.scope,
        auth=[auth] if auth else None,
        name=name,
        control=site.names.control,
        budget=wanted,
    ) as reader:
        yield reader


# Views are fresh: a kept one may be a moment older than what somebody else has just written.


def act(reader: Reader, view: View | None = None, override: str | None = None) -> None:
    with reader.acting(view or reader.view(fresh=True), override=override):
        pass


def exceeded(reader: Reader, view: View | None = None) -> BudgetExceeded:
    """Refused by the budget; nothing is admitted."""
    with pytest.raises(BudgetExceeded) as caught, reader.acting(view or reader.view(fresh=True)):
        raise AssertionError("admitted")
    return caught.value


def change(site: Site, *hosts: int, data: bytes = b"new") -> None:
    for host in hosts:
        site.kazoo.set(site.path(f"/hosts/{host}"), data)


def note_of(site: Site, name: str = "scaler") -> BudgetNote:
    note = BudgetNote.decode(site.kazoo.get(site.names.budget(name))[0])
    assert note is not None
    return note


# -- within and beyond ------------------------------------------------------------------------------------------------


def test_an_action_within_the_budget_is_admitted_and_one_beyond_is_not(site: Site) -> None:
    """Counted from the last one acted on, not from the last one seen; what no pattern matches is free."""
    site.init(tree())
    with reader_of(site) as reader:
        act(reader)
        for host in range(3):
            change(site, host)
            act(reader)
        change(site, 4)
        reader.view(fresh=True)
        change(site, 5)
        found = exceeded(reader)
        assert (found.differences[0].changed, found.differences[0].nodes) == (2, HOSTS)
        change(site, 5, data=b"")  # put back: one is left that differs
        act(reader)
        site.kazoo.set(site.path("/other"), b"2")
        act(reader)
        assert note_of(site).patterns[0].nodes == HOSTS


def test_all_of_a_set_gone_is_refused(site: Site) -> None:
    """The outage of 2016: half a registry. As a share, and as a count."""
    site.init(tree())
    pattern = f"{site.root}/hosts/*"
    with reader_of(site, Budget(pattern, share=0.5)) as reader:
        act(reader)
        site.kazoo.delete(site.path("/hosts"), recursive=True)
        assert exceeded(reader).differences[0].removed == HOSTS


def test_a_refusal_says_what_differs_since_when_and_what_to_do(site: Site) -> None:
    site.init(tree())
    with reader_of(site) as reader:
        act(reader)
        change(site, 1, 2)
        said = str(exceeded(reader))
    for part in ("2 changed", f"{site.root}/hosts/*", "10 %", "'scaler'", "epoch 0", "its budget is 1", "override="):
        assert part in said


def test_without_a_budget_nothing_is_kept(site: Site) -> None:
    site.init(tree())
    with Reader(site.server.hosts, site.names.scope, auth=[ME], name="scaler") as reader:
        act(reader)
        with pytest.raises(BadInput, match="no budget"), reader.acting(reader.view(fresh=True), override="why"):
            pass
    assert site.kazoo.get_children(site.names.budgets) == []


def test_a_budget_needs_a_name_and_a_pattern_that_is_read(site: Site) -> None:
    budget = Budget("/a/*", count=1)
    with pytest.raises(BadInput, match="without name"):
        Reader(site.server.hosts, "x", budget=budget)
    with pytest.raises(BadInput, match="does not read"):
        Reader(site.server.hosts, "x", ["/b"], name="n", budget=budget)
    Reader(site.server.hosts, "x", ["/a/1"], name="n", budget=budget).close()


@pytest.mark.parametrize("where", ["/elsewhere/*", "/zkmig/*"])
def test_a_budget_outside_the_scope_is_bad_input(site: Site, where: str) -> None:
    """It would let everything pass; beside one that is inside, too. Nothing is admitted. One above is of the scope."""
    site.init(tree())
    inside = Budget(f"{site.root}/**", count=HOSTS)
    with reader_of(site, inside, Budget(where, count=1)) as reader:
        with pytest.raises(BadInput, match="not part of scope") as caught, reader.acting(reader.view()):
            raise AssertionError("admitted")
        assert caught.value.where == where
        assert site.kazoo.get_children(site.names.acting) == []
    with reader_of(site, inside, Budget("/**", count=HOSTS)) as reader:
        act(reader)


def test_where_the_scope_lies_is_looked_at_once_and_again_where_it_lies_elsewhere(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at each admission; but a scope that was made anew over another root does not let everything pass."""
    looked: list[str] = []

    def count(record: Record, control: str, wanted: tuple[str, ...] | None) -> Part:
        looked.append(record.root)
        return part_of(record, control, wanted)

    monkeypatch.setattr(ledgers, "part_of", count)
    site.init(tree())
    with reader_of(site, Budget(f"{site.root}/**", count=HOSTS)) as reader:
        for _ in range(3):
            act(reader)
        assert looked == [site.root]
        site.forget()
        elsewhere = f"{site.root}-elsewhere"
        site.kazoo.create(elsewhere, b"")
        init_scope(site.client(), site.names, elsewhere, Roles((MY_IDENTITY,), (WORLD,)), allow_empty=True)
        with pytest.raises(BadInput, match="not part of scope"):
            act(reader, reader.view(fresh=True))
        assert looked == [site.root, elsewhere]


def test_a_budget_that_matches_nothing_is_logged_once(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.init(tree(1))
    mistyped = Budget(f"{site.root}/hots/*", share=0.1)
    with reader_of(site, mistyped, Budget(f"{site.root}/hosts/*", count=1)) as reader:

        def said() -> list[str]:
            caplog.clear()
            act(reader)
            return [record.message for record in caplog.records if "limits nothing" in record.message]

        told = f"scaler: no znode matches its budget {mistyped.pattern}, which limits nothing now"
        assert said() == [told]
        assert said() == []
        site.kazoo.delete(site.path("/hosts/0"))  # now neither matches
        assert len(said()) == 1


def test_what_would_not_fit_is_refused_before_anything_is_sent(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.init(tree())
    monkeypatch.setattr(ledgers, "KEPT_BYTES_MAX", 16 * HOSTS)
    with reader_of(site) as reader:
        with pytest.raises(BadInput, match="16 bytes for each znode"):
            act(reader)
        assert site.kazoo.get_children(site.names.acting) == []
    assert site.kazoo.get_children(site.names.budgets) == []


# -- kept over restarts, shared by all of the name --------------------------------------------------------------------


def two_lives(site: Site) -> None:
    """Acted on by one process; the next is started with another tree before it."""
    site.init(tree())
    with reader_of(site) as reader:
        act(reader)
    change(site, 1, 2, 3)
    with reader_of(site) as reader:
        exceeded(reader)


def test_a_reader_that_is_started_again_does_not_start_unlimited(site: Site) -> None:
    two_lives(site)
    with reader_of(site) as reader:
        change(site, 2, 3, data=b"")
        act(reader)


def test_control_a_baseline_that_is_not_stored_would_be_noticed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Keeping, "operations", lambda *_: ())
    with pytest.raises(AssertionError, match="admitted"):
        two_lives(site)


def both_spend(site: Site) -> None:
    """Two processes of one name, each with a view that is within the budget of what both know; not of each other's."""
    site.init(tree())
    with reader_of(site) as one, reader_of(site) as other:
        act(one)
        act(other)
        change(site, 1)
        ones = one.view(fresh=True)
        change(site, 1, data=b"")
        change(site, 2)
        others = other.view(fresh=True)
        act(one, ones)
        exceeded(other, others)


def test_two_readers_of_one_name_cannot_both_spend_it(site: Site) -> None:
    both_spend(site)


def test_control_a_baseline_outside_of_the_transaction_would_be_noticed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written a moment later, by itself: by then the other one has been admitted on what it knew."""
    found = Keeping.operations
    later: list[Any] = []

    def apart(keeping: Keeping, stored: Stored, note: BudgetNote, baseline: Baseline) -> tuple[()]:
        later[:] = found(keeping, stored, note, baseline)
        return ()

    def admitted(ledger: Ledger, decision: Any) -> None:
        transaction = ledger._client.transaction()
        ledgers.put_into(transaction, later)
        transaction.commit()
        ledger._stored = decision.after

    monkeypatch.setattr(Keeping, "operations", apart)
    monkeypatch.setattr(Keeping, "checks", lambda *_: ())
    monkeypatch.setattr(Ledger, "admitted", admitted)
    with pytest.raises(AssertionError, match="admitted"):
        both_spend(site)


def test_those_that_race_within_the_budget_are_all_admitted(site: Site) -> None:
    """Threads of two readers, while one host is changed to and fro: whatever was last acted on, it is one at most."""
    site.init(tree())
    failures: list[BaseException] = []

    def run(reader: Reader) -> None:
        try:
            for _ in range(15):
                act(reader)
        except BaseException as error:  # noqa: BLE001 - told by the test
            failures.append(error)

    with reader_of(site) as one, reader_of(site) as other:
        threads = [threading.Thread(target=run, args=(reader,)) for reader in (one, other) for _ in range(2)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            change(site, 1)
            change(site, 1, data=b"")
        for thread in threads:
            thread.join()
        assert not failures
        assert site.kazoo.get(site.names.seen("scaler"))[1].version > 5


# -- answers that do not come -----------------------------------------------------------------------------------------


def lose_one(site: Site, fate: Fate) -> None:
    """An admission on a view that has moved by one is lost; it lands or not. Then the tree moves by one more: that is
    two from what was last acted on."""
    site.init(tree())
    with Proxy(int(site.server.hosts.rpartition(":")[2])) as proxy, reader_of(site, hosts=proxy.hosts) as reader:
        act(reader)
        change(site, 1)
        view = reader.view(fresh=True)
        await_connected(reader)
        proxy.judge = cut_at(proxy.writes, fate)
        with pytest.raises(Unavailable), reader.acting(view, max_seconds=5):
            raise AssertionError("admitted")
        assert proxy.cuts
        await_connected(reader)
        change(site, 2)
        exceeded(reader)
        act(reader, view)  # by one: what was lost can be done again


@pytest.mark.parametrize("fate", [Fate.LOST, Fate.TORN, Fate.UNANSWERED])
def test_a_lost_answer_neither_spends_the_budget_nor_moves_it(site: Site, fate: Fate) -> None:
    lose_one(site, fate)


def test_control_a_lost_answer_that_is_not_settled_would_be_noticed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ledger, "not_begun", lambda ledger, *_: ledger.moved())
    with pytest.raises(AssertionError, match="admitted"):
        lose_one(site, Fate.UNANSWERED)


def test_a_lost_first_action_is_no_baseline(fresh_zk: Server) -> None:
    """The server stops before it answers, and the transaction lands late. A strict budget still refuses the first."""
    with Site(fresh_zk, "/app") as site:
        site.init(tree())
        strict = Budget("/app/hosts/*", count=5, first="refuse")
        with reader_of(site, strict) as reader:
            view = reader.view(fresh=True)
            await_connected(reader)
            exceeded(reader, view)
            site.server.pause()
            with (
                pytest.raises(Unavailable, match="no answer"),
                reader.acting(view, max_seconds=0.3, override="new"),
            ):
                raise AssertionError("admitted")
            site.server.unpause()
            exceeded(reader)
            act(reader, override="new")
            act(reader)
            assert len(note_of(site).overrides) == 1


def test_an_admission_that_took_too_long_is_not_acted_on(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.init(tree())
    with reader_of(site) as reader:
        act(reader)
        change(site, 1)
        view = reader.view(fresh=True)
        with monkeypatch.context() as patch:
            patch.setattr("zkmig.reader.admission.Token.remaining", lambda _: 0.0)
            with pytest.raises(ActingRefused, match="longer"), reader.acting(view):
                raise AssertionError("admitted")
        change(site, 2)
        exceeded(reader)


# -- overrides --------------------------------------------------------------------------------------------------------


def test_an_override_acts_and_is_on_record(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.init(tree())
    with reader_of(site) as reader:
        act(reader)
        change(site, 1, 2, 3)
        exceeded(reader)
        with pytest.raises(BadInput, match="why"), reader.acting(reader.view(fresh=True), override="  "):
            pass
        act(reader, override="three hosts were renamed")
        assert "three hosts were renamed" in caplog.text
        (override,) = note_of(site).overrides
        assert (override.why, override.epoch, override.differed[0].changed) == ("three hosts were renamed", 0, 3)
        act(reader)
        change(site, 4, 5)
        exceeded(reader)
    assert [note.overrides for note in read_budgets(site.client(), site.names)] == [(override,)]
    found = read_status(site.client(), site.names)
    assert found.overrides == [(note_of(site), override)]
    shown = "\n".join(screen(found, [], time.time()))
    assert "overridden 1 in a week, scaler" in shown


# -- who may see and write what ---------------------------------------------------------------------------------------


def test_the_note_is_for_all_and_the_fingerprint_for_the_reader_alone(site: Site) -> None:
    """Neither the scope's admin nor another reader reads or writes it; the note everybody reads, nobody else writes.
    The admin is not named to this reader, and can remove the scope all the same."""
    site.init(tree(), Roles((MY_IDENTITY,), (BOBS_IDENTITY, ALICES_IDENTITY)))
    note, seen = site.names.budget("scaler"), site.names.seen("scaler")
    with reader_of(site, auth=BOB) as reader:
        act(reader)
    mine, alices = site.open_kazoo(ME), site.open_kazoo(ALICE)
    for client in (mine, alices):
        assert json.loads(client.get(note)[0] or b"")["reader"] == "scaler"
        with pytest.raises(NoAuthError):
            client.get(seen)
        with pytest.raises(NoAuthError):
            client.set(seen, b"")
    with pytest.raises(NoAuthError):
        alices.set(note, b"")
    for path in (note, seen):
        with pytest.raises(NoAuthError):
            alices.delete(path)
    remove(site)
    assert not mine.exists(site.names.home)


def test_a_name_that_another_identity_took_is_forbidden(site: Site) -> None:
    site.init(tree())
    with reader_of(site, auth=BOB) as reader:
        act(reader)
    with reader_of(site, auth=ALICE) as reader, pytest.raises(Forbidden, match="another identity"):
        act(reader)


def test_without_credentials_the_baseline_is_everybodys_and_hides_nothing(site: Site) -> None:
    site.init(tree())
    with reader_of(site, auth=None) as reader:
        act(reader)
    assert site.kazoo.get_acls(site.names.seen("scaler"))[0][0].id.scheme == "world"
    with reader_of(site, auth=None) as reader:
        change(site, 1, 2)
        exceeded(reader)


def test_an_admin_may_begin_anew(site: Site) -> None:
    """By deleting both nodes; one of them alone makes it unknown, which admits nothing."""
    site.init(tree())
    with reader_of(site) as reader:
        act(reader)
        change(site, 1, 2)
        exceeded(reader)
        site.kazoo.delete(site.names.seen("scaler"))
        with pytest.raises(ActingRefused, match="deleted"):
            act(reader)
        site.kazoo.delete(site.names.budget("scaler"))
        act(reader)


# -- scopes of before there were budgets ------------------------------------------------------------------------------


def test_a_scope_that_has_no_place_for_budgets_says_what_to_do(site: Site) -> None:
    site.init(tree())
    site.kazoo.delete(site.names.budgets)
    assert read_budgets(site.client(), site.names) == []
    with reader_of(site) as reader:
        for _ in range(2):
            with pytest.raises(BadInput, match="zkmig init"), reader.acting(reader.view(fresh=True)):
                raise AssertionError("admitted")
        roles = Roles((MY_IDENTITY,), (WORLD,))
        for who in (BOB, ME):
            result = init_scope(site.client(who), site.names, site.root, roles)
            assert not result.created
            assert bool(site.kazoo.exists(site.names.budgets)) is (who is ME)
        act(reader)


def test_nothing_of_an_older_zkmig_hinders_remove(site: Site) -> None:
    site.init(tree())
    site.kazoo.delete(site.names.budgets)
    remove(site)
    assert not site.kazoo.exists(site.names.home)
