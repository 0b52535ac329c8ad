"""What README tells a newcomer to type works as it stands.

Method: the blocks of "A first migration" are run by a shell, one after the other, in an empty folder, with the address
of a real server in the place of the one in the text. A command that is said to end with another code than 0 has to.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from zkmig.dev import Server

README = Path(__file__).parent.parent / "README.md"
HEADING = "## A first migration\n"
_OTHER_CODE = re.compile(r"#.*exit code ([1-9]\d*)")


def blocks(section: str) -> list[str]:
    """The indented blocks of a section, without their indent."""
    found = re.findall(r"(?:^(?: {4}.*)?\n)+", section, re.MULTILINE)
    return [re.sub(r"^ {4}", "", block, flags=re.MULTILINE) for block in found if block.strip()]


def as_script(commands: list[str]) -> str:
    """A shell script of the commands: each line that begins with the program's name is held to its code."""
    lines = ["set -u"]
    for line in "".join(commands).splitlines():
        lines.append(line)
        if line.startswith("zkmig "):
            other = _OTHER_CODE.search(line)
            wanted = other[1] if other else "0"
            lines.append(f'code=$?; [ $code = {wanted} ] || {{ echo "code $code of line {len(lines)}" >&2; exit 99; }}')
    return "\n".join(lines)


def first_migration(host: str) -> str:
    """The section as a script, less what needs a second terminal."""
    text = README.read_text()
    section = text.partition(HEADING)[2].partition("\n## ")[0]
    typed = [block for block in blocks(section) if "zkmig dev" not in block]
    script = as_script(typed).replace(". .venv/bin/activate\n", "")
    assert "HOST=127.0.0.1:22181\n" in script
    return script.replace("HOST=127.0.0.1:22181\n", f"HOST={host}\n")


def test_a_first_migration(fresh_zk: Server, tmp_path: Path) -> None:
    """Every command of the section, policy, script, rehearsal and refusal included."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    script = first_migration(fresh_zk.hosts)
    assert script.count("\nzkmig ") > 15
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "10 % may go" in done.stderr or "(10 %) may go" in done.stderr  # what the last script is refused for
    assert (tmp_path / "app.zks").exists()


def test_a_code_that_is_not_the_one_told_is_noticed() -> None:
    """Negative control: false ends with 1, and nothing says so."""
    for line, code in (("zkmig() { return 3; }\nzkmig x  # exit code 3", 0), ("zkmig() { return 3; }\nzkmig x", 99)):
        assert subprocess.run(["bash", "-c", as_script([line])], capture_output=True, check=False).returncode == code
