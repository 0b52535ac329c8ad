"""Migration scripts by the program, on a real server: plan, apply of a directory, history.

Method: whole runs of the program; kazoo looks at what came of them, and plays the others who write meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import os
import pty
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.program import PROGRAM, Program, Ran, location
from tests.scopes import Site
from zkmig.api.scripts import apply_scripts
from zkmig.epoch.attempts import AttemptNote, ScriptNote
from zkmig.errors import Refused

pytestmark = pytest.mark.timeout(300)

AUTH = {"ZKMIG_AUTH": "digest:me:hunter2"}


class Place:
    """A scope over a small tree, a folder of scripts, and the program."""

    def __init__(self, site: Site, program: Program) -> None:
        self.site, self.program = site, program
        self.root, self.scope = site.root, site.names.scope
        self.at, self.tree = location(site.server.hosts), location(site.server.hosts, site.root)
        self.folder = program.folder / "migrations"
        self.folder.mkdir()
        site.kazoo.create(f"{site.root}/pools/web", b"1", makepath=True)
        site.kazoo.create(f"{site.root}/pools/db", b"2")
        site.init()

    def script(self, number: int, body: str, name: str = "step", mark: str = "") -> Path:
        """migrations/NNNN_name.py; {root} in its lines is the root of the tree."""
        lines = "".join(f"    {line}\n" for line in body.replace("{root}", self.root).splitlines())
        path = self.folder / f"{number:04}_{name}.py"
        path.write_text(f"import zkmig\n@zkmig.migration(epoch={number}{mark})\ndef {name}(tree):\n{lines}")
        return path

    def three(self) -> None:
        """Three scripts, each of which needs the one before."""
        self.script(1, 'tree.create("{root}/pools/new", b"")')
        self.script(2, 'tree.move("{root}/pools/web", "{root}/pools/new/web")')
        self.script(3, 'tree.set("{root}/pools/new/web", b"3")')

    def run(self, *arguments: object) -> Ran:
        return self.program(*arguments, env=AUTH)

    def apply(self, epoch: int, *options: object, what: object = "migrations") -> Ran:
        """--yes, on the whole folder."""
        return self.run("apply", "--epoch", epoch, what, "--at", self.at, "--scope", self.scope, "--yes", *options)

    def history(self) -> list[dict[str, object]]:
        found = self.run("history", "--at", self.at, "--scope", self.scope, "--json").succeeded().document
        attempts: list[dict[str, object]] = found["attempts"]
        return attempts

    def data(self) -> dict[str, bytes | None]:
        return {path: seen.data for path, seen in self.site.look().items()}

    @property
    def epoch(self) -> int:
        return self.site.record().epoch


@pytest.fixture
def place(site: Site, program: Program) -> Place:
    return Place(site, program)


BEFORE = {"": b"", "/pools": b"", "/pools/web": b"1", "/pools/db": b"2"}
AFTER = {"": b"", "/pools": b"", "/pools/db": b"2", "/pools/new": b"", "/pools/new/web": b"3"}


# -- one script, by way of a plan -------------------------------------------------------------------------------------


def test_the_plan_of_a_script_is_for_its_epoch_and_its_scope(place: Place) -> None:
    """Planned ahead it can be looked at; applied it is only as the epoch, and to the scope, that the script says."""
    one = place.script(1, 'tree.set("{root}/pools/web", b"one")', mark=f', scope="{place.scope}"')
    ahead = place.script(2, 'tree.set("{root}/pools/web", b"two")')
    other = place.script(3, 'tree.set("{root}/pools/web", b"x")', mark=', scope="elsewhere"')
    ran = place.run("plan", one, "--to", place.tree, "-o", "1.zkplan", "--json").succeeded()
    assert ran.document["script"]["file"] == one.name
    assert "apply it with: zkmig apply --epoch 1" in ran.stderr
    ran = place.run("plan", ahead, "--to", place.tree, "-o", "2.zkplan").succeeded()
    assert "apply will refuse the plan" in ran.stderr
    assert "apply it with" not in ran.stderr
    place.run("plan", other, "--to", place.tree, "-o", "3.zkplan").failed(3, "elsewhere", place.scope)
    place.run("plan", one, "--to", place.tree, "-o", "4.zkplan", "--scope", "nobodys").failed(3, "nobodys")
    place.run("apply", "--epoch", 1, "2.zkplan", "--yes").failed(3, "is for epoch 2, not 1")
    assert place.data() == BEFORE
    place.run("apply", "--epoch", 1, "1.zkplan", "--yes").succeeded()
    assert "already applied" in place.run("apply", "--epoch", 1, "1.zkplan", "--yes").succeeded().stdout
    assert place.data()["/pools/web"] == b"one"
    (attempt,) = place.history()
    assert attempt["script"] == {"name": "step", "file": one.name, "sha256": ran_hash(one)}
    assert "already applied" in place.apply(1).succeeded().stdout  # the folder knows of it
    assert place.program.files == {"1.zkplan", "2.zkplan", "migrations"}


def ran_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_plan_wants_a_script_or_a_source(place: Place) -> None:
    path = place.script(1, "pass")
    place.run("plan", "--to", place.tree, "-o", "p").failed(2, "either --from or a script")
    place.run("plan", path, "--from", place.tree, "--to", place.tree, "-o", "p").failed(2, "either --from or a script")
    place.run("plan", "0009_none.py", "--to", place.tree, "-o", "p").failed(2, "0009_none.py", "no such script")
    place.run("plan", path, "--to", place.tree, "-o", "p", "--map-path", f"{place.root}=/x").failed(
        2, "not for scripts"
    )
    assert place.program.files == {"migrations"}


# -- a directory ------------------------------------------------------------------------------------------------------


def test_a_directory_where_a_script_is_meant_and_nothing_where_scripts_are(place: Place) -> None:
    """Each is told what the other command would take."""
    place.run("plan", "migrations", "--to", place.tree, "-o", "p").failed(2, "zkmig apply takes the directory")
    place.run("apply", "--epoch", 1, "none", "--yes").failed(
        2, "none: there is no such file", "a directory of migration scripts"
    )


def test_scripts_are_applied_in_order_and_an_epoch_each(place: Place) -> None:
    """From a dry run over one part to the rest; again: nothing to do. History tells of each."""
    place.three()
    dry = place.run(
        "apply", "--epoch", 3, "migrations", "--at", place.at, "--scope", place.scope, "--dry-run", "--json"
    )
    epochs = dry.succeeded().document["epochs"]
    assert [one["epoch"] for one in epochs] == [1, 2, 3]
    assert epochs[2]["operations"] == [f"write {place.root}/pools/new/web"]
    assert place.data() == BEFORE
    assert not (place.folder / ".plans").exists()
    place.apply(1).succeeded()
    assert place.epoch == 1
    applied = place.apply(3, "--json").succeeded().document
    assert [(one["epoch"], one["script"]) for one in applied["epochs"]] == [(2, "0002_step.py"), (3, "0003_step.py")]
    assert place.data() == AFTER
    assert place.apply(3, "--json").succeeded().document["outcome"] == "already applied"
    place.apply(2).failed(3, "the committed epoch is 3, beyond 2")
    history = place.history()
    assert [(one["epoch"], one["outcome"], one["counts"]["create"]) for one in history] == [  # type: ignore[index]
        (1, "committed", 1), (2, "committed", 1), (3, "committed", 0),
    ]  # fmt: skip
    assert all(one["user"] for one in history)
    shown = place.run("history", "--at", place.at, "--scope", place.scope).succeeded().stdout
    assert "from 0002_step.py (step), sha256 " in shown
    assert "2 writes (1 create, 1 delete)" in shown
    kept = {path.name for path in (place.folder / ".plans").iterdir()}
    assert kept == {".gitignore", *(f"{place.scope}-000{number}_step.zkplan" for number in (1, 2, 3))}


def test_a_script_that_finds_nothing_to_do_makes_its_epoch_all_the_same(place: Place) -> None:
    """Else no later one could ever follow."""
    place.script(1, 'tree.set("{root}/pools/web", b"1")')
    place.script(2, 'tree.set("{root}/pools/web", b"2")')
    assert place.apply(2).succeeded().stdout.startswith("epoch 1 is committed: 0 writes")
    assert (place.epoch, place.data()["/pools/web"]) == (2, b"2")


def edited(place: Place) -> None:
    path = place.folder / "0001_step.py"
    path.write_text(path.read_text() + "# a comment\n")


def gone(place: Place) -> None:
    (place.folder / "0001_step.py").unlink()


def missing(place: Place) -> None:
    (place.folder / "0002_step.py").unlink()


def twice(place: Place) -> None:
    place.script(3, "pass", name="again")


def misnamed(place: Place) -> None:
    (place.folder / "0003_step.py").rename(place.folder / "0003-step.py")


def elsewhere(place: Place) -> None:
    place.script(3, "pass", mark=', scope="elsewhere"')


def wrong_number(place: Place) -> None:
    (place.folder / "0003_step.py").write_text((place.folder / "0002_step.py").read_text())


def raises(place: Place) -> None:
    place.script(3, "raise KeyError")


def unsound(place: Place) -> None:
    place.script(3, 'tree.delete("{root}/pools/nowhere")')


def by_chance(place: Place) -> None:
    place.script(3, 'import secrets\ntree.set("{root}/pools/db", secrets.token_bytes(9))')


HARMS: list[tuple[Callable[[Place], None], int, list[str]]] = [
    (edited, 3, ["0001_step.py", "edited since epoch 1"]),
    (gone, 3, ["0001_step.py", "epoch 1, is not there"]),
    (missing, 3, ["no script for epoch 2"]),
    (twice, 3, ["two scripts are for epoch 3", "0003_again.py"]),
    (misnamed, 3, ["0003-step.py", "no name of a migration script"]),
    (elsewhere, 3, ["0003_step.py", "elsewhere"]),
    (wrong_number, 2, ["0003_step.py", "its migration is for epoch 2"]),
    (raises, 2, ["0003_step.py:4", "KeyError"]),
    (unsound, 2, ["0003_step.py:4", "there is no such znode"]),
    (by_chance, 2, ["0003_step.py", "does not come out the same"]),
]


def test_what_is_wrong_with_any_of_them_is_told_before_the_first_write(place: Place) -> None:
    """The third is harmed, or the first, which was applied; the second is sound, and is not applied."""
    place.three()
    place.apply(1).succeeded()
    sound = place.program.folder / "sound"
    shutil.copytree(place.folder, sound)
    before, zxid = place.data(), place.site.kazoo.get(place.site.names.record)[1].mzxid
    for harm, code, words in HARMS:
        harm(place)
        place.apply(3).failed(code, *words)
        assert place.data() == before
        assert place.site.kazoo.get(place.site.names.record)[1].mzxid == zxid
        shutil.rmtree(place.folder)
        shutil.copytree(sound, place.folder)
    place.apply(3).succeeded()
    assert place.data() == AFTER


def test_an_epoch_that_something_else_has_made_is_not_taken_for_a_scripts(place: Place) -> None:
    """A plan of a snapshot has taken number 1, and a revert number 2: the scripts of those numbers were never run."""
    place.run("snapshot", place.tree, "-o", "s.zks").succeeded()
    place.site.kazoo.set(f"{place.root}/pools/db", b"new")
    place.run("plan", "--from", "s.zks", "--to", place.tree, "-o", "p.zkplan").succeeded()
    place.run("apply", "--epoch", 1, "p.zkplan", "--yes").succeeded()
    one = place.script(1, "pass")
    place.script(2, "pass")
    place.apply(2).failed(3, "0001_step.py", "epoch 1 was made by a plan of no script")
    one.unlink()
    place.run("revert", "--epoch", 1, "--at", place.at, "--scope", place.scope, "--yes").succeeded()
    place.script(3, "pass")
    place.apply(3).failed(3, "0002_step.py", "a revert of epoch 1", "after 2")
    (place.folder / "0002_step.py").unlink()
    place.apply(3).succeeded()
    assert place.epoch == 3


def test_one_script_may_be_named_if_it_is_its_turn(place: Place) -> None:
    place.three()
    place.apply(2, what="migrations/0002_step.py").failed(3, "the committed epoch is 0")
    place.apply(2, what="migrations/0001_step.py").failed(3, "for epoch 1, not 2")
    place.apply(1, what="migrations/0001_step.py").succeeded()
    assert "already applied" in place.apply(1, what="migrations/0001_step.py").succeeded().stdout
    edited(place)
    place.apply(1, what="migrations/0001_step.py").failed(3, "edited since epoch 1")
    assert place.data() == {**BEFORE, "/pools/new": b""}


def test_options_of_scripts_and_of_plans_are_told_apart(place: Place) -> None:
    place.three()
    place.run("apply", "--epoch", 1, "migrations", "--yes").failed(2, "no ensemble is given")
    place.run("apply", "--epoch", 1, "nowhere", "--yes").failed(2, "nowhere")
    place.run("plan", "migrations/0001_step.py", "--to", place.tree, "-o", "p.zkplan").succeeded()
    place.run("apply", "--epoch", 1, "p.zkplan", "--yes", "--plans", "x").failed(2, "--plans", "this is for scripts")
    (place.program.folder / "file").touch()
    place.apply(1, "--plans", "file/x").failed(2, "file/x", "--plans DIR")
    assert place.data() == BEFORE
    place.apply(1, "--plans", "kept").succeeded()
    assert (place.program.folder / "kept" / f"{place.scope}-0001_step.zkplan").exists()


def test_a_policy_holds_for_each_of_them(place: Place) -> None:
    """The second empties what may not be emptied: the first is not applied either."""
    place.script(1, 'tree.create("{root}/pools/new", b"")')
    place.script(2, 'tree.delete("{root}/pools/web")\ntree.delete("{root}/pools/db")\ntree.delete("{root}/pools/new")')
    policy = place.program.folder / "policy.toml"
    policy.write_text(
        f'format = 1\n[[guardrails]]\nname = "pools"\npattern = "{place.root}/pools"\nnever_empty = true\n'
    )
    place.run("plan", "migrations/0001_step.py", "--to", place.tree, "-o", "p.zkplan", "--policy", policy).succeeded()
    ran = place.apply(2, "--policy", policy)
    assert (ran.code, place.epoch, place.data()) == (3, 0, BEFORE), ran
    assert "pools" in ran.stderr


def answered(place: Place, epoch: int, answers: str) -> tuple[int, str]:
    """Apply with a terminal for stdin and stderr, and give one answer for each question: exit code, what was shown."""
    ours, its = pty.openpty()
    with os.fdopen(ours, "r+b", buffering=0) as terminal:
        process = subprocess.Popen(
            [PROGRAM, "apply", "--epoch", str(epoch), "migrations", "--at", place.at, "--scope", place.scope],
            cwd=place.program.folder,
            env=place.program.environment({"TERM": "xterm", **AUTH}),
            stdin=its,
            stderr=its,
            stdout=subprocess.DEVNULL,
        )
        os.close(its)
        shown, asked = b"", 0
        with suppress(OSError):  # that is how a terminal tells that nobody is left at its other end
            while piece := terminal.read(1024):
                shown += piece
                if shown.count(b"Apply it?") > asked:
                    terminal.write(f"{answers[asked]}\n".encode())
                    asked += 1
        return process.wait(timeout=60), shown.decode()


def test_rules_of_a_row_may_speak_of_what_no_script_may_look_at(place: Place) -> None:
    """The tree that a script leads to is held whole for the next one, however little of it is included."""
    place.three()
    policy = place.program.folder / "policy.toml"
    policy.write_text(
        f'format = 1\n[[include]]\npath = "{place.root}/pools"\n'
        f'[[guardrails]]\npattern = "{place.root}"\nmin_children = 1\n'
    )
    place.apply(3, "--policy", policy, "--dry-run").succeeded()
    place.apply(3, "--policy", policy).succeeded()
    assert place.epoch == 3


def test_each_epoch_is_asked_about(place: Place) -> None:
    """Yes and no: the first is committed, and stays so; nothing of the second is done, nor kept. Then yes and yes."""
    place.three()
    code, shown = answered(place, 3, "yn")
    assert (code, place.epoch) == (2, 1)
    assert "0002_step.py" in shown
    assert "epoch 1 stays committed" in shown
    assert place.data() == {**BEFORE, "/pools/new": b""}
    assert not list((place.folder / ".plans").glob("*0002*"))
    code, _ = answered(place, 3, "yy")
    assert (code, place.data()) == (0, AFTER)


# -- interrupted ------------------------------------------------------------------------------------------------------


def test_an_interrupted_row_goes_on_behind_what_is_committed(place: Place) -> None:
    """Killed in the midst of the second epoch's batches: refused until that is resumed with the plan that was kept, of
    which status and the error tell; then the third follows."""
    place.script(1, 'tree.create("{root}/pools/new", b"")')
    place.script(2, 'for number in range(3000): tree.create(f"{root}/pools/new/{number:04}", b"x" * 100)'.replace(
        "{number:04}", "{number:04}"))  # fmt: skip
    place.script(3, 'tree.set("{root}/pools/web", b"3")')
    process = place.program.start(
        "apply", "--epoch", 3, "migrations", "--at", place.at, "--scope", place.scope, "--yes",
        "--throttle", 400, "--single-shot", "never", "--session-timeout", 4, env=AUTH,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    try:
        while not place.site.kazoo.exists(f"{place.root}/pools/new/0300"):
            assert time.monotonic() < deadline, process.communicate(timeout=5)
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143
    plan = f"migrations/.plans/{place.scope}-0002_step.zkplan"
    assert f"go on with:    zkmig resume {plan}" in said
    assert place.epoch == 1
    place.apply(3).failed(3, "epoch 2 is OPEN", f"run zkmig resume {place.program.folder}/{plan}")
    place.run("resume", plan, "--yes").succeeded()
    place.apply(3).succeeded()
    assert (place.epoch, place.data()["/pools/web"]) == (3, b"3")
    assert len(place.site.kazoo.get_children(f"{place.root}/pools/new")) == 3000


def test_a_row_that_is_refused_midway_leaves_no_plan_behind(place: Place) -> None:
    """Somebody holds the scope: exit 3, nothing written, no file; without the hold it is applied."""
    place.three()
    place.run("hold", "--at", place.at, "--scope", place.scope, "--reason", "lunch").succeeded()
    ran = place.apply(3)
    assert (ran.code, "lunch" in ran.stderr, place.data()) == (3, True, BEFORE), ran
    assert [path.name for path in (place.folder / ".plans").iterdir()] == [".gitignore"]
    place.run("release", "--at", place.at, "--scope", place.scope).succeeded()
    place.apply(3).succeeded()
    assert place.data() == AFTER


# -- by the library, and by other versions ----------------------------------------------------------------------------


def test_the_library_applies_a_directory_too(place: Place) -> None:
    place.three()
    auth = [("digest", "me:hunter2")]
    done = apply_scripts(place.folder, place.at, epoch=3, scope=place.scope, auth=auth)
    assert [one.epoch for one in done] == [1, 2, 3]
    assert apply_scripts(place.folder, place.at, epoch=3, scope=place.scope, auth=auth) == ()
    edited(place)
    with pytest.raises(Refused, match="edited since epoch 1"):
        apply_scripts(place.folder, place.at, epoch=3, scope=place.scope, auth=auth)
    assert place.data() == AFTER


def test_notes_of_older_and_newer_versions_are_read(place: Place) -> None:
    """An older note has no script, counts or user; a newer one has more than is known. Where a note does not tell, that
    is said, and stops nobody."""
    plain = AttemptNote(3, "abc", "hash", 1.0)
    fields = json.loads(plain.encode())
    for name in ("script", "counts", "user"):
        del fields[name]
    assert AttemptNote.decode(json.dumps(fields).encode()) == plain
    full = AttemptNote(
        3, "abc", "hash", 1.0, script=ScriptNote("f", "0003_f.py", "0" * 64), counts={"create": 1}, user="me"
    )
    assert AttemptNote.decode(full.encode()) == full
    more = json.loads(full.encode())
    more["script"]["later"] = more["later"] = 1
    assert AttemptNote.decode(json.dumps(more).encode()) == full
    for wrong in ({"script": 7}, {"script": {"file": "x"}}, {"counts": [1]}, {"counts": {"create": "1"}}, {"user": 1}):
        assert AttemptNote.decode(json.dumps({**more, **wrong}).encode()) is None
    place.three()
    place.apply(1).succeeded()
    (home,) = place.site.kazoo.get_children(place.site.names.epochs)
    place.site.kazoo.set(f"{place.site.names.epochs}/{home}", b"not a note")
    ran = place.apply(3).succeeded()
    assert "does not tell what has made the epochs of 0001_step.py" in ran.stderr
