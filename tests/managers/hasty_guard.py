"""`zkmig guard`, broken on purpose: it acknowledges as soon as it has told the command to end. A control."""

from __future__ import annotations

from typing import Any

from zkmig.cli.main import main
from zkmig.guard.decision import Decision

_end = Decision._end


def _hasty(self: Decision, why: str) -> None:
    _end(self, why)
    self._acknowledge(why)


if __name__ == "__main__":
    decision: Any = Decision
    decision._end = _hasty
    main()
