"""No page names a command or an option that is not there, and the runbook knows every state and every exit code.

Method: every `zkmig ...` in code of README, docs/ and examples/ is looked up in the program itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from zkmig import errors
from zkmig.cli.main import cli
from zkmig.epoch.transitions import State, table

TOP = Path(__file__).parent.parent
PAGES = sorted(
    [TOP / "README.md", TOP / "CHANGELOG.md", *TOP.glob("docs/*.md"), *TOP.glob("examples/**/*.md")],
    key=lambda page: page.as_posix(),
)
_CODE = re.compile(r"```.*?```|`(?:[^`\n]|\n(?!\n))+`|(?:^(?: {4}|\t)[^\n]*\n)+", re.DOTALL | re.MULTILINE)
_COMMAND = re.compile(r"(?<!from )(?<![\w/.-])zkmig ([a-z][\w-]*)([^\n`|;&#)]*)")
_OPTION = re.compile(r"(?<![\w-])(--[a-z][a-z-]*)")


def commands_in(text: str) -> Iterator[tuple[str, list[str]]]:
    """Command and options of everything in code that begins with the program's name."""
    for code in _CODE.findall(text):
        is_wrapped = re.match(r"`(?!``)", code) is not None  # by the page, so that its lines are one
        for name, rest in _COMMAND.findall(re.sub(r"\s*\n\s*" if is_wrapped else r"\\\n\s*", " ", code)):
            ours, _, _ = f"{rest} ".partition(" -- ")  # what follows is the command of a guard
            yield name, _OPTION.findall(ours)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_a_page_names_only_what_there_is(page: Path) -> None:
    """Each command is one of the program's, and each of its options one of that command's."""
    context = click.Context(cli)
    wrong = []
    for name, options in commands_in(page.read_text()):
        command = cli.get_command(context, name)
        if command is None:
            wrong.append(f"zkmig {name}")
            continue
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        wrong += [f"zkmig {name} {option}" for option in options if option not in {*known, "--help"}]
    assert not wrong


def test_the_lookup_finds_what_is_wrong() -> None:
    """Negative control: an unknown command, and an unknown option behind a line's end."""
    found = list(commands_in("`zkmig frobnicate`\n\n    zkmig plan \\\n      --frobnicate x -- ls --all\n"))
    assert found == [("frobnicate", []), ("plan", ["--frobnicate"])]


def test_the_runbook_knows_every_state_and_exit_code() -> None:
    """Whatever `status` or a code says at night has a place in it."""
    page = (TOP / "docs" / "runbook.md").read_text()
    reached = {state for state in State if state.value in table()}
    assert reached
    for state in reached:
        assert f"### {state.value}\n" in page
    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert len(codes) > 5
    rows = re.findall(r"^\| ([\d, ]+) \|", page, re.MULTILINE)
    assert codes <= {int(code) for row in rows for code in row.split(",")}
