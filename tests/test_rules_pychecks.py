"""Checks in Python: found, pinned, called; whatever goes wrong with one, the tree is not taken for sound."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.trees import Node, snapshot_of
from zkmig.errors import BadInput, Refused
from zkmig.model.snapshot import Snapshot
from zkmig.policy.packed import packed, unpacked
from zkmig.policy.rules import PythonCheck, Rules
from zkmig.rules.judge import baseline_of, judge
from zkmig.rules.pychecks import pinned
from zkmig.stop import Interruption

TREE = {"": Node(), "/pools": Node(), "/pools/web": Node(b'{"hosts": []}'), "/pools/db": Node(b'{"hosts": ["h1"]}')}

GOOD = '''
from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Pool:
    hosts: list[str]

def pools(tree):
    """Uses all that a tree offers."""
    assert tree.root == "/app" and tree.children("/app") == ["pools"] and len(tree) == 4
    assert list(tree)[0] == "/app" and "/app/pools" in tree and tree.get("/none") is None
    for path, names in tree.find("/app/pools/{pool}"):
        if not Pool(**tree.json(path)).hosts:
            yield path, f"pool {names['pool']} has no hosts"
'''


@pytest.fixture
def snapshot() -> Snapshot:
    return snapshot_of(TREE)


def lines(check: PythonCheck, snapshot: Snapshot) -> list[str]:
    return list(map(str, judge(Rules(checks=(check,)), snapshot).violations))


def in_file(folder: Path, text: str, name: str = "check") -> PythonCheck:
    (folder / "checks.py").write_text(text)
    return pinned("c", f"checks.py:{name}", str(folder))


def test_a_check_in_a_file_beside_the_policy(tmp_path: Path, snapshot: Snapshot) -> None:
    check = in_file(tmp_path, GOOD, "pools")
    (line,) = lines(check, snapshot)
    assert line.startswith("c: /app/pools/web (13 bytes, sha256 ")
    assert line.endswith("): pool web has no hosts")
    assert unpacked(packed(Rules(checks=(check,)))) == Rules(checks=(check,))
    assert list(tmp_path.iterdir()) == [tmp_path / "checks.py"]  # nothing compiled is left beside somebody's policy


def test_a_check_in_a_module(tmp_path: Path, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "our_checks.py").write_text(GOOD)
    check = pinned("c", "our_checks:pools", "/nowhere")
    assert len(check.sha256) == 64
    assert len(lines(check, snapshot)) == 1
    (tmp_path / "our_checks.py").write_text(GOOD + "# changed")
    with pytest.raises(Refused, match="has changed"):
        lines(check, snapshot)


def test_a_check_that_an_installed_package_offers(
    tmp_path: Path, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Method: what an installation leaves: a module, and a .dist-info that names it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "offered_checks.py").write_text(GOOD)
    info = tmp_path / "offered-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: offered\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[zkmig.checks]\nour-pools = offered_checks:pools\nbroken = no_such:thing\n")
    assert len(lines(pinned("c", "our-pools", "/nowhere"), snapshot)) == 1
    with pytest.raises(BadInput, match="cannot be loaded: ModuleNotFoundError"):
        pinned("c", "broken", "/nowhere")
    with pytest.raises(BadInput, match="no installed package offers"):
        pinned("c", "other", "/nowhere")
    other = tmp_path / "second-1.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: second\nVersion: 1\n")
    (other / "entry_points.txt").write_text("[zkmig.checks]\nour-pools = offered_checks:other\n")
    with pytest.raises(BadInput, match="several packages offer"):
        pinned("c", "our-pools", "/nowhere")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return None", None),
        ("return []", None),
        ("yield 'a sentence'", "c: /app (0 bytes, sha256 e3b0c44298fc): a sentence"),
        ("yield '/none', 'not there'", "c: /none: not there"),
        ("yield '/app', '\\ud800'", "\\ud800"),
        ("return False", "the check failed: TypeError"),
        ("return 'pools are wrong'", "the check failed: TypeError"),
        ("yield 1", "the check failed: TypeError"),
        ("yield ('/app', 'x', 'y')", "the check failed: ValueError"),
        ("raise ValueError('secret')", "the check failed: ValueError at checks.py line 2"),
        ("return tree['/none']", "the check failed: KeyError at"),
        ("import sys; sys.exit(0)", "the check failed: SystemExit at checks.py line 2"),
        ("import asyncio; raise asyncio.CancelledError", "the check failed: CancelledError at checks.py line 2"),
        ("yield 'first'; raise ValueError('secret')", "first"),
    ],
)
def test_whatever_a_check_does_is_a_verdict(body: str, words: str | None, tmp_path: Path, snapshot: Snapshot) -> None:
    said = lines(in_file(tmp_path, f"def check(tree):\n    {body}\n"), snapshot)
    assert bool(said) == (words is not None)
    assert words is None or words in said[0]
    assert "secret" not in "".join(said)
    if "first" in body:
        assert "ValueError" in said[1]


@pytest.mark.parametrize("ended", [KeyboardInterrupt, Interruption])
def test_a_signal_is_no_failure_of_the_check(
    ended: type[BaseException], tmp_path: Path, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who ends the program ends it, also while a check runs."""
    monkeypatch.setattr("builtins.ended_by", ended, raising=False)
    with pytest.raises(ended):
        lines(in_file(tmp_path, "def check(tree):\n    raise ended_by\n"), snapshot)


def test_a_function_that_takes_no_tree_is_told_how(tmp_path: Path, snapshot: Snapshot) -> None:
    assert "it is to take a tree" in lines(in_file(tmp_path, "def check(): return []"), snapshot)[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def other(tree): pass", "there is no function check"),
        ("check = 3", "is no function"),
        ("raise OSError('x')", "cannot be loaded: OSError"),
        ("import sys; sys.exit(0)", "cannot be loaded: SystemExit"),
        ("import asyncio; raise asyncio.CancelledError", "cannot be loaded: CancelledError"),
        ("def check(tree)", "cannot be loaded: SyntaxError"),
        ("import no_such_module", "cannot be loaded: ModuleNotFoundError"),
    ],
)
def test_a_check_that_cannot_be_had_is_refused_at_once(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=words):
        in_file(tmp_path, text)


def test_a_check_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="No such file"):
        pinned("c", "none.py:check", str(tmp_path))
    with pytest.raises(BadInput, match="ModuleNotFoundError"):
        pinned("c", "no_such_package.checks:check", str(tmp_path))


def test_what_runs_is_what_was_pinned(tmp_path: Path, snapshot: Snapshot) -> None:
    """Goal: no stale byte code. Method: change the file within its size and time, as an editor in a hurry can."""
    check = in_file(tmp_path, "def check(tree): return ['1']\n")
    stat = (tmp_path / "checks.py").stat()
    (tmp_path / "checks.py").write_text("def check(tree): return ['2']\n")
    os.utime(tmp_path / "checks.py", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(Refused, match="has changed since"):
        lines(check, snapshot)
    again = pinned("c", "checks.py:check", str(tmp_path))
    assert lines(again, snapshot)[0].endswith(": 2")


def test_two_policies_may_have_a_file_of_one_name(tmp_path: Path, snapshot: Snapshot) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one = in_file(tmp_path / "one", "def check(tree): return ['one']")
    two = in_file(tmp_path / "two", "def check(tree): return ['two']")
    assert lines(one, snapshot)[0].endswith("one")
    assert lines(two, snapshot)[0].endswith("two")
    assert "checks" not in sys.modules


def test_what_a_check_prints_is_not_in_the_way(
    tmp_path: Path, snapshot: Snapshot, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stdout is for the one document that a script parses."""
    text = "print('one')\ndef check(tree):\n    print('two')\n    yield 'bad'\n    print('three')\n"
    assert len(lines(in_file(tmp_path, text), snapshot)) == 1
    out, err = capsys.readouterr()
    assert (out, err) == ("", "one\none\ntwo\nthree\n")


def test_what_is_said_twice_is_not_old_for_being_said_once_before(tmp_path: Path, snapshot: Snapshot) -> None:
    """With existing = "report": the same sentence once more is one more violation."""
    text = "def check(tree):\n    for path, _ in tree.find('/app/pools/*'):\n        yield 'a pool'\n"
    rules = Rules(checks=(in_file(tmp_path, text),), report_existing=True)
    before = baseline_of(rules, snapshot)
    assert judge(rules, snapshot, before).is_sound
    more = judge(rules, snapshot_of({**TREE, "/pools/new": Node()}), before)
    assert not more.is_sound
    assert sorted(each.is_old for each in more.violations) == [False, True, True]


def test_a_check_that_failed_before_is_never_old(tmp_path: Path, snapshot: Snapshot) -> None:
    """What could not be judged is not sound, however long that has been so."""
    rules = Rules(checks=(in_file(tmp_path, "def check(tree):\n    raise KeyError\n"),), report_existing=True)
    assert not judge(rules, snapshot, baseline_of(rules, snapshot)).is_sound


def test_what_a_check_calls_a_path_is_cut(tmp_path: Path, snapshot: Snapshot) -> None:
    check = in_file(tmp_path, "def check(tree):\n    yield '/' + 'x' * 1_000_000, 'wrong'\n")
    assert len(lines(check, snapshot)[0]) < 1100
