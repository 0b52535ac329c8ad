"""The backend is chosen loudly: what was asked for is obeyed, absence gives one notice, breakage is an error.

Method: `choose` with its own settings and module names, broken modules being files that this test writes.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from zkmig import backend
from zkmig.errors import BadInput

PRESENT = ("json", "gzip")
ABSENT = ("zkmig._fast.no_such_module",)


@pytest.mark.parametrize(
    ("asked", "modules", "expected"),
    [
        (None, PRESENT, "cython"),
        ("", PRESENT, "cython"),
        ("auto", PRESENT, "cython"),
        ("cython", PRESENT, "cython"),
        ("python", PRESENT, "python"),
        ("python", ABSENT, "python"),
        ("auto", ABSENT, "python"),
    ],
)
def test_choice(asked: str | None, modules: tuple[str, ...], expected: str) -> None:
    environ = {} if asked is None else {backend.VARIABLE: asked}
    assert backend.choose(environ, modules) == expected


@pytest.mark.parametrize(
    ("asked", "modules", "reason"),
    [
        ("fortran", PRESENT, "no such backend: 'fortran'"),
        ("cython", ABSENT, "no_such_module is absent"),
        ("auto", PRESENT + ABSENT, "no_such_module is absent"),
    ],
)
def test_refusals(asked: str, modules: tuple[str, ...], reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        backend.choose({backend.VARIABLE: asked}, modules)


def test_present_but_broken_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "zkmig_broken_module.py").write_text("raise ImportError('undefined symbol: x')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BadInput, match=r"cannot be loaded \(undefined symbol: x\)"):
        backend.choose({}, ("zkmig_broken_module",))


def test_absence_gives_a_notice_unless_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "zkmig"):
        backend.choose({backend.VARIABLE: "python"}, ABSENT)
        assert not caplog.records
        backend.choose({}, ABSENT)
    assert [record.name for record in caplog.records] == ["zkmig.backend"]


@pytest.mark.parametrize("asked", ["python", "auto"])
def test_the_hash_does_not_depend_on_the_backend(asked: str) -> None:
    """A process of its own for each, because the choice is made once."""
    script = (
        "from tests.trees import load_real; from zkmig import backend\n"
        "print(backend.name(), load_real('clickhouse-18.16').tree_hash)"
    )
    environ = {**os.environ, backend.VARIABLE: asked}
    root = Path(__file__).parent.parent
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=root, env=environ, capture_output=True, text=True, check=True
    )
    name, tree_hash = run.stdout.split()
    assert name == backend.choose({backend.VARIABLE: asked}, backend.COMPILED_MODULES)
    assert tree_hash == "82ef0730be13d7ce03a065a2d94ffe5ba17eb3d34c78f80a08e49cc03b0b659a"
