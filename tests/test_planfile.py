"""A plan file gives back exactly the plan that was written, or is refused with the offset; its seal names the plan.

Method: made-up plans through a file and back; every byte of a small file flipped, every truncation; sealed files that
hold no plan; a disk that fails.
"""

from __future__ import annotations

import dataclasses
import os
import stat
import tempfile
from array import array
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from tests.plan_values import Step, plan_of, stat_of, steps
from zkmig import sealed
from zkmig.epoch.control import head_size_max
from zkmig.errors import BadInput, DamagedFile
from zkmig.model.acl import ALL, OPEN_ACL, Acl
from zkmig.model.quota import Quota
from zkmig.model.znode import Kind
from zkmig.plan import planfile
from zkmig.plan.batches import cut
from zkmig.plan.creates import Operations
from zkmig.plan.operations import CreateNode, DeleteNode, Pin, RaiseCounter, WriteData
from zkmig.plan.plan import Limits, Plan
from zkmig.plan.soundness import Soundness
from zkmig.policy.captures import CapturePattern
from zkmig.policy.leftout import LeftOut
from zkmig.policy.rules import Rules, Unchanged
from zkmig.rules.baseline import MARK_BYTES, Baseline, Before

HEAD = head_size_max("prod")
PIN = Pin.of(stat_of())
FEWER = settings(max_examples=30)
FROM_HEADER = ("acls", "quotas", "quotas_left")  # sections since version 4


def plan_for(made: list[Step]) -> Plan:
    limits = Limits(4_000, 1_500)
    operations, ends = cut([step.operation for step in made], HEAD, limits)
    return plan_of(operations, ends, limits, HEAD)


SMALL = plan_of(
    (
        CreateNode("/app/n", None, OPEN_ACL),
        CreateNode("/app/n/队", b"", OPEN_ACL, Kind.TTL, 9),
        WriteData("/app/w", b"new", PIN, 3),
        RaiseCounter("/app/n", 4, 5),
        DeleteNode("/app/d", PIN, 99),
        DeleteNode("/app/c", PIN, 99, Kind.TTL, 9),
    ),
    (3, 6),
    Limits(),
    HEAD,
)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small"
    planfile.write(SMALL, str(path))
    return path


@FEWER
@given(steps())
def test_reads_back_what_was_written(made: list[Step]) -> None:
    """Null and empty data, kinds and ACLs included: the value is equal, and so is its hash."""
    plan = plan_for(made)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "plan"))
        name = planfile.write(plan, path)
        read, read_name = planfile.read(path)
        assert read == plan
        assert name == read_name == planfile.plan_hash(plan)


def test_long_sections_go_into_many_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of three items stand for plans of many thousand operations."""
    monkeypatch.setattr(planfile, "ITEMS_PER_BLOCK", 3)
    monkeypatch.setattr(planfile, "CREATES_PER_ITEM", 3)
    operations = tuple(CreateNode(f"/app/{number}", bytes(number), OPEN_ACL) for number in range(50))
    plan = plan_of(operations, tuple(range(1, 51)), Limits(), HEAD)
    planfile.write(plan, str(tmp_path / "plan"))
    assert sum(1 for _ in sealed.read(tmp_path / "plan", planfile.FORMAT)) > 30
    assert planfile.read(str(tmp_path / "plan"))[0] == plan


def test_as_many_acls_and_quotas_as_a_tree_may_have(tmp_path: Path) -> None:
    """Each user a subtree with an ACL and a quota: more of them than one list in a sealed file may hold."""
    users = range(sealed.SEQUENCE_MAX + 5)
    acls = [(*OPEN_ACL, Acl(ALL, "digest", f"u{user}:hash")) for user in users]
    creates = tuple(CreateNode(f"/app/{user}", None, acl) for user, acl in zip(users, acls, strict=True))
    quotas = tuple(Quota(f"/app/{user}", "count=9,bytes=-1") for user in users)
    left = LeftOut(quotas=tuple(f"/source/{user}" for user in users))
    plan = dataclasses.replace(plan_of(creates, (len(creates),), Limits(), HEAD), quotas=quotas, left_out=left)
    path = str(tmp_path / "plan")
    planfile.write(plan, path)
    assert planfile.read(path)[0] == plan
    assert list(plan.acls())[: len(acls)] == [(create.path, create.acl) for create in creates]


class Unsearched(array):  # type: ignore[type-arg]
    """A column that nobody may search: a search for each of its values would take its length squared."""

    def __contains__(self, _: object) -> bool:
        raise AssertionError("searched")

    def index(self, *_: object) -> int:
        raise AssertionError("searched")


def test_acls_of_creates_are_found_without_a_search_for_each() -> None:
    """The first path of each, where several nodes share one."""
    names = ("a", "b", "a", "c", "b")
    acls = {name: (*OPEN_ACL, Acl(ALL, "digest", f"{name}:hash")) for name in names}
    creates = tuple(CreateNode(f"/app/{number}", None, acls[name]) for number, name in enumerate(names))
    plan = dataclasses.replace(plan_of(creates, (len(creates),), Limits(), HEAD), acl_steps=())
    columns = plan.ordered.creates
    guarded = dataclasses.replace(columns, acl_ids=Unsearched("I", columns.acl_ids))
    plan = dataclasses.replace(plan, operations=Operations(guarded, plan.ordered.rest))
    assert list(plan.acls()) == [("/app/0", acls["a"]), ("/app/1", acls["b"]), ("/app/3", acls["c"])]


@pytest.mark.parametrize("quotas_left", [None, (), ("/source/a", "/source/b")])
@pytest.mark.parametrize("version", [3, planfile.FORMAT.version])
def test_earlier_versions_are_read(tmp_path: Path, version: int, quotas_left: tuple[str, ...] | None) -> None:
    """Version 3 had ACLs and quotas in its header; what was not looked for, and what was not found, stay two things."""
    quotas = (Quota("/app", "count=9,bytes=-1"),)
    plan = dataclasses.replace(SMALL, quotas=quotas, left_out=LeftOut(quotas=quotas_left))
    path = tmp_path / "plan"
    planfile.write(plan, str(path))
    if version == 3:
        header, *blocks = [block.value for block in sealed.read(path, planfile.FORMAT)]
        moved = {name: [item for of, items in blocks if of == name for item in items] for name in FROM_HEADER}
        lengths = {name: length for name, length in header["lengths"].items() if name not in FROM_HEADER}
        header |= {"lengths": lengths, "acls": moved["acls"], "quotas": moved["quotas"]}
        if quotas_left is not None:
            header["left_out"]["quotas"] = moved["quotas_left"]
        path.unlink()
        with sealed.create(path, dataclasses.replace(planfile.FORMAT, version=3)) as writer:
            for block in (header, *(block for block in blocks if block[0] not in FROM_HEADER)):
                writer.block(block)
            writer.seal()
    assert planfile.read(str(path))[0] == plan


def test_the_hash_depends_on_the_plan_alone(tmp_path: Path) -> None:
    names = {planfile.write(SMALL, str(tmp_path / str(number))) for number in range(3)}
    assert names == {planfile.plan_hash(SMALL)}
    contents = {(tmp_path / str(number)).read_bytes() for number in range(3)}
    assert [content[-32:].hex() for content in contents] == list(names)


def test_the_hash_tells_plans_apart_by_every_field() -> None:
    """Among them those that change nothing on the wire, such as null for empty data or a note."""
    others: list[dict[str, Any]] = [
        {"operations": (CreateNode("/app/n", b"", OPEN_ACL), *SMALL.operations[1:])},
        {"batch_ends": (5,)},
        {"acl_steps": ()},
        {"touched": ()},
        {"notes": ()},
        {"identity": None},
        {"quotas": (Quota("/app", "count=9,bytes=-1"),)},
        {"left_out": LeftOut(quotas=("/app",))},
        {"head_bytes": HEAD + 1},
        {"limits": Limits(single_shot_ops_max=1)},
        {"target": dataclasses.replace(SMALL.target, epoch=5)},
        {"source": dataclasses.replace(SMALL.source, zxid_last=10)},
    ]
    names = {planfile.plan_hash(dataclasses.replace(SMALL, **other)) for other in others}
    assert len(names | {planfile.plan_hash(SMALL)}) == len(others) + 1


# -- damage -----------------------------------------------------------------------------------------------------------


def refused(path: Path, content: bytes) -> DamagedFile:
    path.write_bytes(content)
    with pytest.raises(DamagedFile) as caught:
        planfile.read(str(path))
    assert caught.value.where == str(path)
    assert 0 <= caught.value.offset <= len(content)
    assert "no part of a plan" not in caught.value.what  # that is for what is whole and sealed
    return caught.value


def test_every_flipped_byte_is_refused(small: Path) -> None:
    content = small.read_bytes()
    for offset in range(len(content)):
        altered = bytearray(content)
        altered[offset] ^= 1 << offset % 8
        refused(small, bytes(altered))


def test_every_truncation_and_every_addition_is_refused(small: Path) -> None:
    content = small.read_bytes()
    for length in range(len(content)):
        refused(small, content[:length])
    refused(small, content + b"\0")
    refused(small, content + content)


def test_a_plan_of_an_earlier_format_is_told_by_its_version(small: Path) -> None:
    content = bytearray(small.read_bytes())
    content[7] = 1
    fault = refused(small, bytes(content))
    assert fault.what == "format version 1, made by an older zkmig at byte 7"
    assert "make it again with zkmig plan" in fault.hint


def test_a_snapshot_is_no_plan(tmp_path: Path) -> None:
    """A sealed file of another magic is refused at its first byte, whatever its name."""
    path = tmp_path / "other.zkplan"
    with sealed.create(path, sealed.Format(b"zksnap\0", 1, "snapshot", "zkmig snapshot")) as writer:
        writer.block({})
    with pytest.raises(DamagedFile, match="not a plan file"):
        planfile.read(str(path))
    assert not planfile.is_planfile(str(path))


@pytest.mark.parametrize(
    "blocks",
    [
        [],
        [None],
        [{}],
        [{"lengths": {}}],
        [7, 8],
        [[["operations", []]]],
        [{"lengths": dict.fromkeys(planfile.SECTIONS, 0)}],
    ],
)
def test_a_sound_seal_around_something_else_is_refused(tmp_path: Path, blocks: list[Any]) -> None:
    """Nothing but DamagedFile: a hash only says that the bytes are those that somebody wrote."""
    path = tmp_path / "plan"
    with sealed.create(path, planfile.FORMAT) as writer:
        for block in blocks:
            writer.block(block)
        writer.seal()
    with pytest.raises(DamagedFile, match="no part of a plan"):
        planfile.read(str(path))


@pytest.mark.parametrize("ends", [(), (3,), (3, 5), (3, 7), (3, 3, 6), (6, 3, 6), (0, 6), (-1, 6), (3.0, 6), ("3", 6)])
def test_batches_that_do_not_hold_every_operation_once_are_refused(tmp_path: Path, ends: tuple[Any, ...]) -> None:
    """An operation outside all batches would be left out without a word, verified, and committed."""
    path = str(tmp_path / "plan")
    planfile.write(dataclasses.replace(SMALL, batch_ends=ends), path)
    with pytest.raises(DamagedFile, match="batches"):
        planfile.read(path)


def test_a_baseline_without_marks_is_refused(tmp_path: Path) -> None:
    """What a rule of unchanged nodes is held against; else the judgement itself would fail, in the window."""
    rules = Rules(guardrails=(Unchanged("kept", CapturePattern.parse("/app/*")),))
    path = str(tmp_path / "plan")
    for marks, is_sound in ((b"m" * MARK_BYTES * 2, True), (b"m" * MARK_BYTES, False), (b"", False)):
        baseline = Baseline({"kept": Before(("/app/c", "/app/d"), marks)})
        plan = dataclasses.replace(SMALL, soundness=Soundness(rules, baseline))
        planfile.write(plan, path, force=True)
        if is_sound:
            assert planfile.read(path)[0] == plan
        else:
            with pytest.raises(DamagedFile):
                planfile.read(path)


def test_a_plan_that_lost_a_block_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sections state their lengths in the header: a sealed file with one block fewer is no plan."""
    monkeypatch.setattr(planfile, "ITEMS_PER_BLOCK", 1)
    monkeypatch.setattr(planfile, "CREATES_PER_ITEM", 1)
    planfile.write(SMALL, str(tmp_path / "whole"))
    blocks = [block.value for block in sealed.read(tmp_path / "whole", planfile.FORMAT)]
    for left_out in range(len(blocks)):
        path = tmp_path / str(left_out)
        with sealed.create(path, planfile.FORMAT) as writer:
            for number, block in enumerate(blocks):
                if number != left_out:
                    writer.block(block)
            writer.seal()
        with pytest.raises(DamagedFile, match="no part of a plan"):
            planfile.read(str(path))


# -- the file system --------------------------------------------------------------------------------------------------


def test_only_its_owner_may_read_it(small: Path) -> None:
    """Also when it replaces a file that everybody could read: a plan holds data that ACLs may protect."""
    assert stat.S_IMODE(small.stat().st_mode) == 0o600
    small.chmod(0o644)
    planfile.write(SMALL, str(small), force=True)
    assert stat.S_IMODE(small.stat().st_mode) == 0o600


def test_a_file_is_replaced_only_by_force(small: Path) -> None:
    other = dataclasses.replace(SMALL, notes=())
    before = small.read_bytes()
    with pytest.raises(BadInput, match="exists"):
        planfile.write(other, str(small))
    assert small.read_bytes() == before
    planfile.write(other, str(small), force=True)
    assert planfile.read(str(small))[0] == other


@pytest.mark.parametrize("step", ["fsync", "link"])
def test_nothing_is_left_behind_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(BadInput, match="No space left"):
        planfile.write(SMALL, str(tmp_path / "plan"))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_replacement_leaves_the_old_file(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    before = small.read_bytes()
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(BadInput):
        planfile.write(dataclasses.replace(SMALL, notes=()), str(small), force=True)
    assert small.read_bytes() == before
    assert list(small.parent.iterdir()) == [small]


@pytest.mark.parametrize("name", ["missing/plan", "."])
def test_a_place_that_takes_no_file_is_bad_input(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput):
        planfile.write(SMALL, str(tmp_path / name))
    with pytest.raises(BadInput):
        planfile.read(str(tmp_path / name))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["nothing.zkplan", "."])
def test_a_file_that_cannot_be_read_is_not_called_damaged(tmp_path: Path, name: str) -> None:
    """In the midst of an epoch "plan again" would be the wrong advice for a name that was mistyped."""
    with pytest.raises(BadInput, match="cannot be read") as caught:
        planfile.read(str(tmp_path / name))
    assert not isinstance(caught.value, DamagedFile)
