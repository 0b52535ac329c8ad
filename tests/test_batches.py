"""A plan is cut by the exact bytes of its frames: what is sent, forward and back, never exceeds the limit.

Method: made-up operations through `cut`, then every multi encoded as the migrator would send it, and measured.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plan_values import ATTEMPT, EPOCH, SCOPE, Step, guarding_migrator, journal_of, stat_of, steps
from zkmig.apply.rollback import UndoBatch, undo_batches, undo_write
from zkmig.epoch.control import AttemptPaths, head_size_max
from zkmig.epoch.journal import Manifest
from zkmig.errors import PlanImpossible
from zkmig.model.acl import OPEN_ACL
from zkmig.model.znode import Kind, Znode
from zkmig.plan.batches import cut
from zkmig.plan.operations import CreateNode, DeleteNode, Operation, Pin, RaiseCounter, WriteData, forward_size
from zkmig.plan.plan import Limits
from zkmig.wire.requests import MULTI_OVERHEAD, Create, Multi, SetData, WriteOp, encode, operation_size

HEAD = head_size_max(SCOPE)
FRAME_MAX = 4_000
limits = st.builds(Limits, st.just(FRAME_MAX), st.integers(700, 3_000))
FEWER = settings(max_examples=40)


def batches(operations: tuple[Operation, ...], ends: tuple[int, ...]) -> list[tuple[Operation, ...]]:
    assert list(ends) == sorted(set(ends))
    assert (ends[-1] if ends else 0) == len(operations)
    return [operations[start:end] for start, end in itertools.pairwise((0, *ends))]


def frame_bytes(multi: Multi) -> int:
    """Of the frame as it goes out, without its length prefix: what jute.maxbuffer counts."""
    return len(encode(multi, 2**31 - 1)) - 4


def attempt() -> AttemptPaths:
    return guarding_migrator().names.attempt(EPOCH, ATTEMPT)


def writes_of(operation: Operation) -> Iterator[WriteOp]:
    if isinstance(operation, RaiseCounter):
        yield from operation.writes(operation.pairs)
    else:
        yield operation.write()


def forward_frame(batch: tuple[Operation, ...]) -> int:
    cursor = SetData(attempt().cursor, None, 2**31 - 1)
    return frame_bytes(guarding_migrator().guarded([cursor, *itertools.chain(*map(writes_of, batch))]))


def undo_frame(batch: UndoBatch) -> int:
    writes = [write for write in map(undo_write, batch.entries) if write is not None]
    writes += [write for operation in batch.raises for write in writes_of(operation)]
    return frame_bytes(guarding_migrator().guarded([SetData(attempt().rcursor, None, 2**31 - 1), *writes]))


def manifest(limit: Limits, count: int) -> Manifest:
    return Manifest("0" * 16, EPOCH, ATTEMPT, "/app", "", count, limit.batch_bytes_max, (), (), 0)


@FEWER
@given(steps(), limits)
def test_every_frame_fits_forward_and_back(made: list[Step], limit: Limits) -> None:
    """Only an operation alone in its batch may exceed the batch limit, and nothing the frame limit."""
    operations, ends = cut([step.operation for step in made], HEAD, limit)
    found = batches(operations, ends)
    journal = journal_of(operations, ends, made)
    undo = undo_batches(journal, manifest(limit, len(ends)), len(ends))
    for batch, back in zip(found, reversed(undo[: len(found)]), strict=True):
        largest = max(forward_frame(batch), undo_frame(back))
        assert largest <= (limit.batch_bytes_max if len(batch) > 1 else FRAME_MAX)
    for raised in undo[len(found) :]:
        pair = RaiseCounter.pair_size(raised.raises[0].path)
        assert undo_frame(raised) <= max(limit.batch_bytes_max, MULTI_OVERHEAD + HEAD + pair)


@FEWER
@given(steps(), limits)
def test_order_is_kept_and_no_path_is_in_two_batches(made: list[Step], limit: Limits) -> None:
    """Pieces of one counter, put together again, give back exactly the operations that went in."""
    operations, ends = cut([step.operation for step in made], HEAD, limit)
    together: list[Operation] = []
    for operation in operations:
        last = together[-1] if together else None
        if isinstance(operation, RaiseCounter) and isinstance(last, RaiseCounter) and last.path == operation.path:
            together[-1] = RaiseCounter(last.path, last.pairs + operation.pairs, last.to)
        else:
            together.append(operation)
    assert together == [step.operation for step in made]
    places: dict[str, set[int]] = {}
    for number, batch in enumerate(batches(operations, ends)):
        for operation in batch:
            if not isinstance(operation, RaiseCounter):
                places.setdefault(operation.path, set()).add(number)
    assert all(len(numbers) == 1 for numbers in places.values())


@FEWER
@given(steps(), limits)
def test_a_batch_is_closed_only_because_the_next_operation_does_not_fit(made: list[Step], limit: Limits) -> None:
    operations, ends = cut([step.operation for step in made], HEAD, limit)
    budget = limit.batch_bytes_max - MULTI_OVERHEAD - HEAD
    for batch, following in itertools.pairwise(batches(operations, ends)):
        more = (*batch, following[0])
        assert max(sum(map(forward_size, more)), sum(operation.undo_size() for operation in more)) > budget


@given(st.integers(1, 64), st.integers(1, 2**31 - 1))
def test_the_head_is_never_larger_than_reckoned(name_length: int, epoch: int) -> None:
    """With the longest names and numbers that a scope and an epoch can have."""
    scope = "s" * name_length
    migrator = guarding_migrator(scope)
    paths = migrator.names.attempt(epoch, ATTEMPT)
    for cursor in (paths.cursor, paths.rcursor):
        frame = frame_bytes(migrator.guarded([SetData(cursor, None, 2**31 - 1)]))
        assert frame <= MULTI_OVERHEAD + head_size_max(scope) <= MULTI_OVERHEAD + head_size_max(None)


# -- nodes near the limit ---------------------------------------------------------------------------------------------


def create(name: str, size: int) -> CreateNode:
    return CreateNode(f"/app/{name}", bytes(size), OPEN_ACL)


def test_a_large_node_stands_alone_between_full_batches() -> None:
    limit = Limits(FRAME_MAX, 1_000)
    small = [create(f"s{number}", 50) for number in range(8)]
    operations, ends = cut([*small[:4], create("large", 2_500), *small[4:]], HEAD, limit)
    found = batches(operations, ends)
    assert [create("large", 2_500)] in [list(batch) for batch in found]
    assert forward_frame((create("large", 2_500),)) > limit.batch_bytes_max


def test_a_frame_of_exactly_the_limit_is_taken_and_one_byte_more_refused() -> None:
    """The refusal names the path, what it needs and what there is."""
    room = FRAME_MAX - MULTI_OVERHEAD - HEAD - forward_size(create("x", 0))
    _, ends = cut([create("x", room)], HEAD, Limits(FRAME_MAX, 1_000))
    assert ends == (1,)
    with pytest.raises(PlanImpossible) as caught:
        cut([create("y", 10), create("x", room + 1)], HEAD, Limits(FRAME_MAX, 1_000))
    assert caught.value.where == "/app/x"
    assert str(FRAME_MAX) in str(caught.value)
    assert str(FRAME_MAX + 1) in str(caught.value)


def test_what_is_too_large_to_be_taken_back_is_refused_too() -> None:
    """A small new value over a large old one; a delete, whose undo creates the node again."""
    before = Znode("/app/x", bytes(FRAME_MAX), OPEN_ACL, stat_of(), Kind.PERSISTENT)
    pin = Pin.of(before.stat)
    size = operation_size(Create(before.path, before.data, before.acl))
    for operation in (WriteData("/app/x", b"new", pin, FRAME_MAX), DeleteNode("/app/x", pin, size)):
        with pytest.raises(PlanImpossible, match="/app/x"):
            cut([operation], HEAD, Limits(FRAME_MAX, 1_000))


def test_a_counter_larger_than_a_batch_is_split_into_full_ones() -> None:
    operations, ends = cut([RaiseCounter("/app/q", 1_000, 1_000)], HEAD, Limits(FRAME_MAX, 2_000))
    assert sum(operation.pairs for operation in operations if isinstance(operation, RaiseCounter)) == 1_000
    assert len(ends) == len(operations) > 1
    assert len({operation.pairs for operation in operations[:-1] if isinstance(operation, RaiseCounter)}) == 1


def test_nothing_gives_no_batch() -> None:
    assert cut([], HEAD, Limits()) == ((), ())


@pytest.mark.parametrize("path", ["/a", "/队列/é", "/" + "n" * 300])
def test_the_size_of_an_operation_is_that_of_its_request(path: str) -> None:
    """Deletes are sized without a request for each, so one is made here and measured."""
    pin = Pin(1, 2, 3)
    for operation in (create(path, 9), WriteData(path, b"data", pin, 3), DeleteNode(path, pin, 80)):
        assert forward_size(operation) == operation_size(operation.write())
        assert frame_bytes(Multi((operation.write(),))) == MULTI_OVERHEAD + forward_size(operation)
