"""Scripts are loaded from files whose number is their epoch, fail with file and line, and come out the same each time.

Method: script files of all sorts in a folder of the test; trees made up; no server. Each is run again in
processes of its own.
"""

from __future__ import annotations

import hashlib
import io
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.program import Program
from tests.trees import EPHEMERAL, Node, snapshot_of, tree_of
from zkmig.api.scripts import load_script, plan_script
from zkmig.changes import ComparePolicy
from zkmig.errors import BadInput, Refused, RuleViolated
from zkmig.model.acl import READ, Acl
from zkmig.plan import planfile
from zkmig.plan.scriptpin import ScriptPin
from zkmig.policy.captures import CapturePattern
from zkmig.policy.policy import Policy
from zkmig.policy.relocation import PathRule
from zkmig.policy.rules import Rules
from zkmig.script.load import SCRIPT_BYTES_MAX, load
from zkmig.script.migration import migration
from zkmig.script.numbering import new_script, number_of, refuse_gaps, scripts_in, slug_of
from zkmig.script.proof import RUNS_AGAIN, proven

BASE = snapshot_of({"": Node(), "/a": Node(b"secret-canary", counter=3), "/a/x": Node(b"x"), "/e": EPHEMERAL})


def first_of_two(seed: int) -> str:
    """Which of a set of two comes first where text has the hashes of this seed."""
    told = [sys.executable, "-S", "-c", "print(list({'web', 'db'})[0])"]
    return subprocess.run(
        told, env={"PYTHONHASHSEED": str(seed)}, capture_output=True, text=True, check=True
    ).stdout.strip()


def script(folder: Path, body: str, name: str = "0007_split.py", head: str = "", mark: str = "epoch=7") -> str:
    """A file whose migration has these lines."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    path = folder / name
    path.write_text(f"import zkmig\n{head}\n@zkmig.migration({mark})\ndef split(tree):\n{lines}")
    return str(path)


# -- loading ----------------------------------------------------------------------------------------------------------


def test_a_script_is_pinned_by_the_hash_of_what_was_run(tmp_path: Path) -> None:
    path = script(tmp_path, 'tree.set("/app/a", b"1")', mark='epoch=7, scope="prod"')
    found = load(path)
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert found.pin == ScriptPin("split", "0007_split.py", digest, 7, "prod")
    plan = plan_script(found, BASE)
    assert plan.script == found.pin
    assert plan.source.location == path
    file = tmp_path / "p.zkplan"
    digest = planfile.write(plan, str(file))
    assert planfile.read(str(file)) == (plan, digest)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["0007_s.py: there is no migration"]),
        ("import zkmig\n", ["there is no migration"]),
        ("def f(:\n", ["0007_s.py:1: it is no Python"]),
        ("x = 1\0\n", ["0007_s.py", "it is no Python"]),
        ("import nowhere_at_all\n", ["0007_s.py:1: it raised ModuleNotFoundError"]),
        ("\n\nexec('def (')\n", ["0007_s.py:3: it raised SyntaxError"]),
        ("\nraise SystemExit(0)\n", ["0007_s.py:2: it raised SystemExit"]),
        ("import zkmig\n@zkmig.migration(epoch=8)\ndef f(tree): ...\n", ["its number is 7", "epoch 8"]),
        ("import zkmig\n@zkmig.migration(epoch=0)\ndef f(tree): ...\n", ["0007_s.py:2", "epoch=0"]),
        ("import zkmig\n@zkmig.migration(epoch=True)\ndef f(tree): ...\n", ["0007_s.py:2", "epoch=True"]),
        ("import zkmig\n@zkmig.migration(epoch=7, scope='a/b')\ndef f(tree): ...\n", ["0007_s.py:2", "scope"]),
        ("import zkmig\n@zkmig.migration(epoch=7)\nasync def f(tree): ...\n", ["0007_s.py:2", "no async"]),
        ("import zkmig\n@zkmig.migration(epoch=7)\ndef f(tree): yield\n", ["0007_s.py:2", "no yield"]),
        ("import zkmig\n@zkmig.migration(epoch=7)\ndef f(): ...\n", ["0007_s.py:2", "one argument"]),
        ("import zkmig\n@zkmig.migration(epoch=7)\nclass F: ...\n", ["0007_s.py:2", "is a function"]),
        (
            "import zkmig\n@zkmig.migration(epoch=7)\ndef f(tree): ...\n@zkmig.migration(epoch=7)\ndef f(tree): ...\n",
            ["there are 2 migrations"],
        ),
    ],
)
def test_what_is_no_script_is_told_by_file_and_line(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "0007_s.py"
    path.write_text(text)
    with pytest.raises(BadInput) as caught:
        load(str(path))
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_no_script_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "0001_pipe.py")
    (tmp_path / "0002_large.py").write_bytes(b"#" * (SCRIPT_BYTES_MAX + 1))
    (tmp_path / "0003_folder.py").mkdir()
    for name in ("0001_pipe.py", "0002_large.py", "0003_folder.py", "0004_none.py"):
        with pytest.raises(BadInput, match=name):
            load(str(tmp_path / name))


def test_dataclasses_and_a_marked_function_of_a_sibling_do_not_confuse_it(tmp_path: Path) -> None:
    head = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass Pool:\n    n: int\n"
    )
    path = tmp_path / "0007_d.py"
    path.write_text(
        f"{head}import zkmig\n@zkmig.migration(epoch=7)\ndef f(tree):\n    tree.set('/app/a', b'%d' % Pool(3).n)\n"
    )
    after = proven(load(str(path)), BASE)
    assert after["/app/a"].data == b"3"


# -- running ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("\ntree.set('/app/none', b'')", [":6: /app/none: there is no such znode"]),
        ("raise KeyError(tree.data('/app/a'))", [":5: it raised KeyError"]),
        ("raise ValueError(str(tree.get('/app/a')))", [":5: it raised ValueError"]),
        ("class Odd(BaseException): ...\nraise Odd('canary')", [":6: it raised Odd"]),
        ("import ast\nast.literal_eval('no canary')", [":6: it raised SyntaxError"]),
        ("import sys\nsys.exit(3)", [":6: it raised SystemExit"]),
        ("tree.get_json('/app/a')", [":5: /app/a: its data (13 bytes) is no JSON"]),
        ("return (tree.set(path, b'') for path in tree.walk())", ["it returned generator"]),
        ("def again(): again()\nagain()", ["it raised RecursionError"]),
        ("tree.delete('/app/e')", [":5: /app/e: an ephemeral belongs to its session"]),
    ],
)
def test_a_script_that_fails_is_told_in_a_line_without_data(tmp_path: Path, body: str, words: list[str]) -> None:
    with pytest.raises(BadInput) as caught:
        plan_script(script(tmp_path, body), BASE)
    for word in words:
        assert word in str(caught.value)
    assert "canary" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("head", "body"),
    [
        ("import random", "tree.set('/app/a/x', str(random.random()).encode())"),
        ("import time", "tree.set('/app/a/x', str(time.time_ns()).encode())"),
        ("import secrets", "tree.create('/app/' + secrets.token_hex(8))"),
        ("import secrets", "tree.raise_counter('/app/a', 100 + secrets.randbelow(10**6))"),
        ("import secrets", "tree.set_acl('/app/a', [zkmig.Acl(31, 'digest', secrets.token_hex(8))])"),
        ("", "tree.set('/app/a/x', ','.join({f'n{n}' for n in range(40)}).encode())"),
        ("", "tree.set('/app/a/x', str(hash('text')).encode())"),
        ("import os", "tree.set('/app/a/x', str(os.getpid()).encode())"),
        ("seen = []", "seen.append(1)\ntree.set('/app/a/x', b'%d' % len(seen))"),
        ("import os", "if os.environ.get('PYTHONHASHSEED'): raise KeyError"),
    ],
    ids=["random", "clock", "name", "counter", "acl", "set", "hash", "process", "memory", "fails"],
)  # fmt: skip
def test_a_script_that_does_not_come_out_the_same_is_refused(
    tmp_path: Path, head: str, body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative controls, each of another source of chance."""
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    with pytest.raises(BadInput, match="it does not come out the same each time") as caught:
        plan_script(script(tmp_path, body, head=head), BASE)
    assert "first to differ" in str(caught.value) or "it failed" in str(caught.value)
    assert "/app" in str(caught.value) or "KeyError" in str(caught.value)
    assert "canary" not in str(caught.value)


def test_a_script_that_ends_the_process_that_proves_it_is_refused(tmp_path: Path) -> None:
    head = f"import os\nhere = {os.getpid()}"
    endings = ((f"os.kill(os.getpid(), {signal.SIGKILL:d})", "was killed by signal 9"), ("os._exit(0)", "ended with 0"))
    for ending, words in endings:
        path = script(tmp_path, f"if os.getpid() != here: {ending}", head=head)
        with pytest.raises(BadInput, match=f"in a process of its own, that {words}"):
            plan_script(path, BASE)


def test_the_order_of_two_is_tried_under_other_hashes_in_each_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is here as in all of the other processes but the last: that one tells."""
    here = list({"web", "db"})[0]  # noqa: RUF015 - the order is what this is about
    last = len(RUNS_AGAIN)
    for seed in range(1_000):
        same = [first_of_two(seed + number) == here for number in range(1, last + 1)]
        if same == [True] * (last - 1) + [False]:
            break
    monkeypatch.setenv("PYTHONHASHSEED", str(seed))
    with pytest.raises(BadInput, match="/app/a/x is first to differ"):
        plan_script(script(tmp_path, "tree.set('/app/a/x', list({'web', 'db'})[0].encode())"), BASE)


def test_a_script_finds_nothing_on_stdin_and_leaves_it_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = io.StringIO("yes\n")
    monkeypatch.setattr(sys, "stdin", given)
    body = "import sys\ntree.set('/app/a/x', sys.stdin.read().encode())"
    assert (
        proven(load(script(tmp_path, body, head="import sys\nassert not sys.stdin.read()")), BASE)["/app/a/x"].data
        == b""
    )
    with pytest.raises(BadInput, match="EOFError"):
        plan_script(script(tmp_path, "input()"), BASE)
    assert sys.stdin is given
    assert given.read() == "yes\n"


def test_nothing_is_left_of_a_proof_that_is_killed(tmp_path: Path) -> None:
    """The last run kills its parent and itself; TMPDIR is empty then, and had been all the time."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    body = (
        "import os, signal\nassert os.listdir(os.environ['TMPDIR']) == []\n"
        "if os.environ.get('PYTHONHASHSEED'):\n"
        "    os.kill(os.getppid(), signal.SIGKILL)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "tree.set('/app/a', b'1')"
    )
    path = script(tmp_path, body)
    program = f"from tests.test_scripts import BASE, load, proven; proven(load({path!r}), BASE)"
    surroundings = {name: value for name, value in os.environ.items() if name != "PYTHONHASHSEED"}
    ended = subprocess.run([sys.executable, "-c", program], env={**surroundings, "TMPDIR": str(folder)}, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert os.listdir(folder) == []


def test_no_room_for_the_trees_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(BadInput, match="set TMPDIR"):
        plan_script(script(tmp_path, "tree.set('/app/a', b'1')"), BASE)


def test_what_a_script_prints_stays_off_stdout(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither the other process's answer nor stdout is disturbed."""
    body = 'print("{}")\ntree.delete("/app/a/x")'
    after = proven(load(script(tmp_path, body)), BASE)
    assert "/app/a/x" not in after
    assert capfd.readouterr().out == ""


def test_all_of_a_tree_reaches_the_process_that_proves(tmp_path: Path) -> None:
    """Ephemerals, null data, ACLs, counters and a root that is not there."""
    base = snapshot_of(
        {"": Node(None, (Acl(READ, "ip", "10.0.0.1"),), 9), "/e": EPHEMERAL, "/队列": Node(None, counter=4)}
    )
    body = (
        'tree.move("/app/队列", "/app/q")\nassert tree.get("/app/e").ephemeral_owner\nassert tree.data("/app") is None'
    )
    after = proven(load(script(tmp_path, body)), base)
    assert tree_of(after)["/q"] == Node(None, counter=4)


# -- the policy -------------------------------------------------------------------------------------------------------


def test_what_a_script_changes_is_in_the_plan_whatever_the_policy_compares(tmp_path: Path) -> None:
    """And what a script says itself may not be said by the policy too."""
    path = script(tmp_path, "tree.set_acl('/app/a', [zkmig.Acl(31, 'world', 'anyone'), zkmig.Acl(1, 'ip', '1.2.3.4')])")
    plan = plan_script(path, BASE, policy=Policy(ComparePolicy(acl=False)))
    assert plan.counts["set_acl"] == 1
    with pytest.raises(BadInput, match="maps paths is not for scripts"):
        plan_script(path, BASE, policy=Policy(map_paths=(PathRule("/app/a", "/app/b"),)))


def test_a_script_stays_within_what_is_included_and_rules_are_judged(tmp_path: Path) -> None:
    path = script(tmp_path, "tree.set('/app/a', b'1')")
    with pytest.raises(BadInput, match="only leads to what is included"):
        plan_script(path, BASE, policy=Policy(includes=("/app/a/x",)))
    assert plan_script(path, BASE, policy=Policy(includes=("/app/a",))).counts["write"] == 1
    with pytest.raises(BadInput, match="left out of what was read"):
        plan_script(path, BASE, excludes=("/app/a",))
    with pytest.raises(RuleViolated, match="/app/a"):
        plan_script(path, BASE, policy=Policy(rules=unchanged("/app/*")))
    assert plan_script(path, BASE, policy=Policy(rules=unchanged("/app/a/*"))).counts["write"] == 1


def unchanged(pattern: str) -> Rules:
    from zkmig.policy.rules import Unchanged

    return Rules(guardrails=(Unchanged("frozen", CapturePattern.parse(pattern), "for the test"),))


# -- files and numbers ------------------------------------------------------------------------------------------------


def test_numbers_stand_in_names(tmp_path: Path) -> None:
    assert number_of("x/0007_split_pools.py") == 7
    assert number_of("12345_a.py") == 12345
    for name in ("7_a.py", "0000_a.py", "00007_a.py", "0007-a.py", "0007_.py", "0007_a b.py", "0007_a.txt", "0007.py"):
        with pytest.raises(BadInput, match="no name of a migration script"):
            number_of(name)
    for name in ("0002_b.py", "0001_a.py", "helpers.py", "__init__.py", "README.md", "0003_c.py~", ".0004_d.py.swp"):
        (tmp_path / name).touch()
    (tmp_path / "0005_folder.py").mkdir()
    assert scripts_in(str(tmp_path)) == {1: f"{tmp_path}/0001_a.py", 2: f"{tmp_path}/0002_b.py"}
    refuse_gaps("d", [1, 2, 3], 2, 3)
    with pytest.raises(Refused, match="no script for epoch 4"):
        refuse_gaps("d", [1, 2, 3, 5], 2, 5)
    (tmp_path / "0002_again.py").touch()
    with pytest.raises(Refused, match="two scripts are for epoch 2"):
        scripts_in(str(tmp_path))
    (tmp_path / "0002_again.py").rename(tmp_path / "2-again.py")
    with pytest.raises(Refused, match=r"2-again\.py"):
        scripts_in(str(tmp_path))


@pytest.mark.parametrize(
    ("title", "slug"),
    [
        ("split pools", "split_pools"),
        ("Split: the POOLS!", "split_the_pools"),
        ("Größe 2", "groe_2"),
        ("import", "import"),
    ],
)
def test_titles_become_names(title: str, slug: str) -> None:
    assert slug_of(title) == slug


@pytest.mark.parametrize("title", ["split pools", 'a """ b \\', "2nd pass", "import", "line\nbreak \x1b[31m \u202e"])
def test_the_template_is_a_script_that_says_it_is_to_be_written(tmp_path: Path, title: str) -> None:
    """Whatever the title: it loads, and its run raises NotImplementedError."""
    path, text = new_script(str(tmp_path), title, "prod")
    Path(path).write_text(text)
    assert "\x1b" not in text
    assert "\u202e" not in text
    found = load_script(path)
    assert (found.epoch, found.pin.scope) == (1, "prod")
    with pytest.raises(BadInput, match="NotImplementedError"):
        plan_script(found, BASE)
    assert new_script(str(tmp_path), title)[0].startswith(f"{tmp_path}/0002_")


def test_new_writes_a_file_and_never_over_one(tmp_path: Path, program: Program) -> None:
    assert program("new", "split pools").succeeded().stdout == "migrations/0001_split_pools.py\n"
    again = program("new", "split pools", "--scope", "prod", "--json").succeeded().document
    assert again == {"script": "migrations/0002_split_pools.py", "epoch": 2, "scope": "prod"}
    before = Path(tmp_path, "migrations/0001_split_pools.py").read_bytes()
    (tmp_path / "file").touch()
    program("new", "x", "--dir", "file").failed(2, "file")
    program("new", "!!").failed(2, "no letter or digit")
    program("new", "x", "--scope", "a/b").failed(2, "scope")
    (tmp_path / "migrations" / "0002_again.py").touch()
    program("new", "x").failed(3, "two scripts are for epoch 2")
    assert Path(tmp_path, "migrations/0001_split_pools.py").read_bytes() == before


def test_a_migration_can_be_called_in_a_test_of_its_own() -> None:
    """As a function: on a draft, without a file."""
    from zkmig.script.draft import Draft

    @migration(epoch=7)
    def split(tree: Draft) -> None:
        tree.set("/app/a", b"called")

    draft = Draft(BASE)
    split(draft)
    assert draft.data("/app/a") == b"called"
