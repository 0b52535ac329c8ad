"""A plan under rules: a tree of pools replaced by another, and who names them, against the same plan without rules.

For each reference ten operations: a pool with three entries and the node that names it come, and as many go. Half of
the names are whole data, half stand in JSON; the names sort before the pools, so that the usual order is wrong for all
of them. The peak of memory is that of a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.memory_probe import status_bytes
from benchmarks.pairs import Baseline, Contest, Row, timed
from benchmarks.size import SIZE
from zkmig.model.acl import OPEN_ACL
from zkmig.model.scope import Scope
from zkmig.model.snapshot import Consistency, Provenance, Snapshot
from zkmig.model.staging import SnapshotBuilder
from zkmig.model.stat import Stat
from zkmig.plan.make import make_plan
from zkmig.policy.captures import CapturePattern, Template
from zkmig.policy.policy import Policy
from zkmig.policy.rules import MaxDeletions, NeverEmpty, Reference, Rules

OPERATIONS_OF_ONE = 10  # for each reference
ENTRIES = 3


def _reference(name: str, source: str, json_path: str | None = None) -> Reference:
    pattern = CapturePattern.parse(source)
    return Reference(name, pattern, Template.parse("/bench/pools/{value}", pattern.names), json_path)


POLICY = Policy(
    rules=Rules(
        references=(
            _reference("active", "/bench/active/{service}"),
            _reference("lists", "/bench/lists/{service}", "$.pools[*]"),
        ),
        guardrails=(
            NeverEmpty("some pools", CapturePattern.parse("/bench/pools")),
            MaxDeletions("all may go", CapturePattern.parse("/bench/pools/*"), share=1.0),
        ),
    )
)


def tree(references: int, mark: str) -> Snapshot:
    """Pools whose names begin with the mark, and as many nodes that name one each."""
    builder = SnapshotBuilder()
    stat = Stat(1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 1)
    for path in ("/bench", "/bench/active", "/bench/lists", "/bench/pools"):
        builder.add(path, b"", OPEN_ACL, stat)
    for number in range(references):
        name = f"{mark}{number:06}"
        if number % 2:
            builder.add(f"/bench/active/{name}", name.encode(), OPEN_ACL, stat)
        else:
            builder.add(f"/bench/lists/{name}", json.dumps({"pools": [name]}).encode(), OPEN_ACL, stat)
        builder.add(f"/bench/pools/{name}", b"a pool", OPEN_ACL, stat)
        for entry in range(ENTRIES):
            builder.add(f"/bench/pools/{name}/{entry}", b"an entry", OPEN_ACL, stat)
    consistency = Consistency(False, 1, 1, "it was made up")
    return builder.build(Scope("/bench"), Provenance("made up"), consistency)


@pytest.mark.parametrize("operations", SIZE.in_memory, ids="{:_}".format)
def test_a_plan_under_rules(operations: int, contest: Contest) -> None:
    source, target = trees(operations)
    plan = make_plan(source, target, policy=POLICY)
    assert len(plan.operations) == operations
    contest.run(
        "plan under rules",
        operations,
        timed(lambda: make_plan(source, target, policy=POLICY)),
        [Baseline("without rules", timed(lambda: make_plan(source, target)), operations)],
        rounds=1 if operations >= 1_000_000 else SIZE.rounds,
    )


@pytest.mark.parametrize("operations", SIZE.for_memory, ids="{:_}".format)
def test_peak_of_a_plan_under_rules(operations: int, rows: list[Row]) -> None:
    peaks = []
    for policy in ("rules", "none"):
        command = [sys.executable, "-m", "benchmarks.bench_rules", str(operations), policy]
        run = subprocess.run(command, cwd=Path(__file__).parent.parent, stdout=subprocess.PIPE, check=True)
        peaks.append(int(run.stdout))
    rows.append(
        Row(
            "peak memory, both trees included",
            operations,
            peaks[0],
            unit="B",
            against="without rules",
            theirs_znodes=operations,
            theirs=peaks[1],
            ratio=peaks[0] / peaks[1],
        )
    )


def trees(operations: int) -> tuple[Snapshot, Snapshot]:
    """The tree to come and the one that is there."""
    references = operations // OPERATIONS_OF_ONE
    return tree(references, "n"), tree(references, "o")


def main(operations: str, policy: str) -> None:
    """Plan once, and say the peak of this process in bytes."""
    source, target = trees(int(operations))
    plan = make_plan(source, target, policy=POLICY if policy == "rules" else None)
    assert len(plan.operations) == int(operations)
    sys.stdout.write(f"{status_bytes('VmHWM')}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
