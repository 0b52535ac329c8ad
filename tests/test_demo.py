"""The demo: what it rests on is checked without servers, then the whole of it is played once, small, on real ones."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from zkmig.demo import registry
from zkmig.demo.decision import Tree, digest, surplus
from zkmig.demo.lifeline import end_children, start_child
from zkmig.demo.lines import Tail, append
from zkmig.demo.observations import Observation, ReaderCounts, Span, count
from zkmig.demo.replay import Replay, Settings
from zkmig.demo.results import Results
from zkmig.demo.service_manager import ENDED, STARTED, Event
from zkmig.model import path as paths

SERVERS = 300
RUNNING = registry.servers_running(SERVERS)
IMAGES = [registry.image(step, SERVERS) for step in range(3)]

SMALL = Settings(servers=300, batch_bytes=1024, write_s=6.0, interrupted_s=1.5, patience_s=4.0, views_min=2)

DEADLINE_S = 60.0
PATIENCE_S = 0.3


def wait_until(is_done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not is_done():
        assert time.monotonic() < deadline, f"still not after {DEADLINE_S:g} s: {what}"
        time.sleep(0.05)


# -- the rule ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", range(3))
def test_no_whole_image_orders_a_termination(step: int) -> None:
    assert surplus(IMAGES[step], RUNNING) == []


@pytest.mark.parametrize("step", range(3))
def test_every_server_is_in_exactly_one_pool(step: int) -> None:
    image = IMAGES[step]
    members = [name for path, data in image.items() if path.endswith("/pool") for name in json.loads(data)["hosts"]]
    assert sorted(json.loads(image[f"{registry.HOSTS}/{name}"])["id"] for name in members) == sorted(RUNNING)


def test_a_mix_of_two_images_orders_terminations() -> None:
    """Half of the pools new, half old, every host known by both of its names: nobody forgot a node, and yet."""
    old, new = IMAGES[0], IMAGES[1]
    pools = sorted(path for path in new if path.endswith("/pool"))
    mix = old | new | {path: old[path] for path in pools[len(pools) // 2 :]}
    gone = surplus(mix, RUNNING)
    assert gone
    assert set(gone) < set(RUNNING)


def test_a_server_that_no_image_lists_is_surplus() -> None:
    assert surplus(IMAGES[0], [*RUNNING, "i-forgotten"]) == ["i-forgotten"]


@pytest.mark.parametrize("step", range(3))
def test_images_are_trees_with_parents_first(step: int) -> None:
    """They are written in this order, in transactions."""
    seen = {paths.parent(registry.ROOT)}
    for path in IMAGES[step]:
        assert paths.parent(path) in seen
        seen.add(path)


def test_consecutive_images_differ_in_most_ways_a_registry_can() -> None:
    for before, after in itertools.pairwise(IMAGES):
        assert after.keys() - before.keys()
        assert before.keys() - after.keys()
        assert any(before[path] != after[path] for path in before.keys() & after.keys())


def test_a_digest_tells_null_from_empty_and_paths_from_data() -> None:
    trees: list[Tree] = [{}, {"/a": None}, {"/a": b""}, {"/a": b"/b"}, {"/a": b"", "/b": b""}, {"/a/b": b""}]
    assert len({digest(tree) for tree in trees}) == len(trees)
    assert digest({"/a": b"1", "/b": b"2"}) == digest({"/b": b"2", "/a": b"1"})


# -- the checker ------------------------------------------------------------------------------------------------------


def seen(begun_s: float, shown: str, **rest: object) -> Observation:
    usual: dict[str, object] = {"pid": 1, "started_s": 0.0, "znodes": 9, "epoch": None, "ordered": (), "refused": False}
    return Observation.of({**usual, "begun_s": begun_s, "ended_s": begun_s + 0.5, "digest": shown, **rest})


def test_the_checker_counts_what_it_is_there_for() -> None:
    """A torn view, a whole view of another epoch than it names, the same order twice, a refusal, two processes."""
    counts = count(
        [
            seen(1.0, "old", epoch=0),
            seen(2.0, "mix", ordered=["i-1", "i-2"]),
            seen(3.0, "mix", ordered=["i-2"], pid=2, started_s=2.5),
            seen(3.4, "new", epoch=0, refused=True),
            seen(5.0, "new", epoch=1),
        ],
        {0: "old", 1: "new"},
        [Span(1.9, 3.6)],
    )
    assert counts == ReaderCounts(
        views=5,
        views_while_open=2,  # the one begun at 3.4 ended too late
        views_started_midway=1,
        torn=2,
        misdated=1,
        terminations_ordered=2,
        rounds_ordering=2,
        actions_refused=1,
        processes=2,
        epochs=(0, 1),
    )


GOOD = Results(
    plain=ReaderCounts(20, 9, 4, 7, 0, 31, 3, 0, 2, ()),
    aware=ReaderCounts(90, 60, 30, 0, 0, 0, 0, 55, 2, (0, 1)),
    servers_running=400,
    znodes=900,
    changes=800,
    batches=60,
    batches_undone=20,
    epochs_committed=1,
    epochs_rolled_back=1,
    is_committed_image_whole=True,
    is_rolled_back_exactly=True,
    tree_hash="ab" * 32,
    seconds=30.0,
)


def test_a_good_run_is_told_by_its_counts() -> None:
    assert GOOD.is_as_promised
    assert set(re.findall(r"\d+", GOOD.conclusion())) == {"7", "20", "31", "400", "0", "90", "60"}


@pytest.mark.parametrize(
    "spoiled",
    [
        {"aware": dataclasses.replace(GOOD.aware, torn=1)},
        {"aware": dataclasses.replace(GOOD.aware, misdated=1)},
        {"aware": dataclasses.replace(GOOD.aware, terminations_ordered=1)},
        {"aware": dataclasses.replace(GOOD.aware, views_while_open=0)},
        {"plain": dataclasses.replace(GOOD.plain, terminations_ordered=0)},
        {"is_committed_image_whole": False},
        {"is_rolled_back_exactly": False},
    ],
)
def test_no_spoiled_run_claims_success(spoiled: dict[str, object]) -> None:
    results = dataclasses.replace(GOOD, **spoiled)  # type: ignore[arg-type]  # fields by name, each of its own type
    assert not results.is_as_promised
    assert re.match("The promise is broken: |This run shows nothing: ", results.conclusion())
    assert results.document()["as_promised"] is False


def test_a_line_that_is_still_being_written_is_left_for_later(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    tail = Tail(file)
    assert tail.new() == []
    append(file, {"n": 1})
    with file.open("ab") as lines:
        lines.write(b'{"n"')
    assert tail.new() == [{"n": 1}]
    with file.open("ab") as lines:
        lines.write(b": 2}\n")
    assert tail.new() == [{"n": 2}]


# -- the service manager ----------------------------------------------------------------------------------------------


def is_alive(pid: int) -> bool:
    """Whether a process runs. One that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A service manager with one service, which sleeps; its events go to tmp_path / "events"."""
    services = tmp_path / "services.json"
    services.write_text(json.dumps({"sleeper": [sys.executable, "-c", "import time; time.sleep(600)"]}))
    argv = [sys.executable, "-m", "zkmig.demo.service_manager", "--services", str(services)]
    child = start_child(
        [*argv, "--events", str(tmp_path / "events"), "--patience", str(PATIENCE_S)], tmp_path / "manager.log"
    )
    yield child
    end_children([child])


def events_after(count: int, tmp_path: Path) -> list[Event]:
    """All events so far, once there are `count`."""
    found: list[Event] = []

    def are_there() -> bool:
        found[:] = [Event(**fields) for fields in Tail(tmp_path / "events").new()]
        return len(found) >= count

    wait_until(are_there, f"the service manager has noted {count} events")
    return found


def test_a_service_stopped_by_hand_is_started_again(tmp_path: Path, manager: subprocess.Popen[bytes]) -> None:
    (started,) = events_after(1, tmp_path)
    os.kill(started.pid, signal.SIGTERM)
    _, ended, again = events_after(3, tmp_path)
    assert [event.what for event in (started, ended, again)] == [STARTED, ENDED, STARTED]
    assert started.pid == ended.pid != again.pid
    assert again.at_s - ended.at_s >= PATIENCE_S
    assert manager.poll() is None


@pytest.mark.parametrize("is_told", [True, False], ids=["told", "parent gone"])
def test_no_service_outlives_its_manager(tmp_path: Path, manager: subprocess.Popen[bytes], is_told: bool) -> None:
    (started,) = events_after(1, tmp_path)
    if is_told:
        manager.terminate()
    else:
        assert manager.stdin is not None
        manager.stdin.close()
    wait_until(lambda: manager.poll() is not None, "the manager ends")
    assert not is_alive(started.pid)


# -- all of it --------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(400)  # half a minute on a machine of its own; the servers and four processes share two cores
def test_the_outage_happens_to_the_plain_autoscaler_alone() -> None:
    """A small replay. Whatever it counts is what the processes met: the counts are held against each other too."""
    said: list[str] = []
    results = Replay(SMALL, said.append).run()
    story = "\n".join(said)
    plain, aware = results.plain, results.aware
    assert plain.torn >= 1, story
    assert 1 <= plain.terminations_ordered < results.servers_running, story
    assert plain.actions_refused == 0
    assert (aware.torn, aware.misdated, aware.terminations_ordered) == (0, 0, 0), story
    assert aware.views_while_open >= 3 * SMALL.views_min, story
    assert aware.views_started_midway >= SMALL.views_min, story
    assert plain.views_started_midway >= SMALL.views_min, story
    assert aware.actions_refused >= 1, story
    assert aware.epochs == (0, 1)
    assert plain.processes == aware.processes == 2, story
    assert results.batches > 30
    assert 0 < results.batches_undone < results.batches
    assert results.is_committed_image_whole
    assert results.is_rolled_back_exactly
    assert results.is_as_promised
    assert (
        "the throttle holds the rest until both autoscalers are back" in story
    )  # that the run is paced is not kept quiet
    document = results.document()
    for reader in ("plain", "aware"):
        assert {"views", "torn", "terminations_ordered", "epochs"} <= document[reader].keys()
    assert (document["epochs"], document["epochs_committed"], document["epochs_rolled_back"]) == (2, 1, 1)
    assert json.loads(json.dumps(document))["batches"] == results.batches


def descendants(pid: int) -> set[int]:
    """Ids of all processes below one."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, level = set[int](), {pid}
    while level:
        level = {child for child, parent in parents.items() if parent in level}
        found |= level
    return found


@pytest.mark.parametrize(
    "way",
    [
        pytest.param(signal.SIGINT, id="SIGINT"),
        pytest.param(signal.SIGTERM, id="SIGTERM", marks=pytest.mark.nightly),
        pytest.param(signal.SIGKILL, id="SIGKILL", marks=pytest.mark.nightly),
    ],
)
@pytest.mark.timeout(240)
def test_nothing_is_left_however_the_demo_ends(tmp_path: Path, way: signal.Signals) -> None:
    """Signal the command once servers, service manager and autoscalers run; look for its processes and its folders."""
    demo = subprocess.Popen(
        [sys.executable, "-c", "from zkmig.cli.main import main; main()", "demo", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        text=True,
    )
    assert demo.stderr is not None
    started = 0
    while started < 2:
        line = demo.stderr.readline()
        assert line, "the demo ended before its autoscalers were started"
        started += "starts the autoscaler" in line
    processes = descendants(demo.pid)
    assert len(processes) >= 8  # two servers, three folder keepers, the manager, two autoscalers
    demo.send_signal(way)
    output, complaint = demo.communicate()
    wait_until(lambda: not any(map(is_alive, processes)), "all processes end")
    wait_until(lambda: not list(tmp_path.iterdir()), "all folders are gone")
    assert output == ""
    assert demo.returncode == (-signal.SIGKILL if way is signal.SIGKILL else 128 + way)
    assert "Traceback" not in complaint


def test_without_a_server_one_line_says_what_to_do(tmp_path: Path) -> None:
    demo = subprocess.run(
        [sys.executable, "-c", "from zkmig.cli.main import main; main()", "demo"],
        check=False,
        env={**os.environ, "ZOOKEEPER_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert demo.returncode == 2
    assert demo.stdout == ""
    assert len([line for line in demo.stderr.splitlines() if line.startswith("zkmig: ")]) == 1
    assert "ZOOKEEPER_HOME" in demo.stderr
