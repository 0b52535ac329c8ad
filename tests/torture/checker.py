"""The checker: a run's history against the transactions that the servers have logged. Shares no code with the engine.

    python -m tests.torture.checker FOLDER

FOLDER: of a run, with its events and, below `txnlog/`, the data folder of each member.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.torture.action_rules import ActionRules
from tests.torture.figures import Figures
from tests.torture.foreign_rules import ForeignRules
from tests.torture.history import History
from tests.torture.hold_rules import HoldRules
from tests.torture.replay import Replay
from tests.torture.view_rules import ViewRules
from tests.torture.violation import Findings
from tests.torture.wanted_rules import WantedRules
from tests.torture.write_rules import WriteRules


def check(history: History, replay: Replay) -> Findings:
    """All rules over all that was recorded."""
    findings = Findings()
    for rules in (ViewRules, WriteRules, ActionRules, ForeignRules, WantedRules, HoldRules, Figures):
        rules(history, replay, findings).check()
    return findings


def check_folder(folder: Path) -> Findings:
    """A run that is over, from its folder."""
    history = History(folder)
    members = [folder / "txnlog" / name for name in history.run["members"]]
    return check(history, Replay.of(members, history.run["root"], history.run["home"]))


def main() -> int:
    """Print what was found; 1 if any rule was broken."""
    folder = Path(sys.argv[1])
    if not any(folder.rglob("log.*")):
        sys.stderr.write(f"{folder}: no transaction logs here; name the folder of one chapter, as its run prints it\n")
        return 2
    findings = check_folder(folder)
    lines = [f"{number:>9}  {what}" for what, number in sorted(findings.figures.items())]
    lines += [f"conceded: {residue}" for residue in findings.residues]
    lines += [f"VIOLATION: {violation}" for violation in findings.violations]
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if findings.violations else 0


if __name__ == "__main__":
    sys.exit(main())
