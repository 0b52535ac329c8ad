"""Plan files that nobody named: kept for `resume`, and taken away again where no resume will ask for them."""

from __future__ import annotations

import os

from zkmig.api.migrate import save_plan
from zkmig.apply.engine import SealedPlan
from zkmig.epoch.control import ControlPaths, read_record
from zkmig.errors import BadInput, ZkmigError
from zkmig.plan.plan import Plan
from zkmig.wire.client import Client

NAMES_MAX = 1_000  # that are tried for one plan


def save_under_free_name(plan: Plan, folder: str, stem: str, hint: str) -> SealedPlan:
    """The plan in a file `stem`.zkplan, or `stem`-2.zkplan and so on. folder: "" for the current one.

    hint: for the operator, where else to; BadInput where it cannot be written.
    """
    for number in range(1, NAMES_MAX):
        path = os.path.join(folder, f"{stem}{f'-{number}' if number > 1 else ''}.zkplan")
        if os.path.lexists(path):
            continue
        try:
            return save_plan(plan, path)
        except BadInput as error:  # of a file that nobody has named
            raise BadInput(f"the plan, which resume would need, {error.what}", path, hint) from error
    where = os.path.join(folder, stem)
    raise BadInput("there are too many plan files of that name", where, f"take some away, or {hint}")


def is_unused(client: Client, names: ControlPaths, sealed: SealedPlan) -> bool:
    """Whether no resume will ask for the plan: told by the record, so when in doubt it stays."""
    try:
        record, _ = read_record(client, names)
    except ZkmigError:
        return False
    return sealed.hash not in (record.plan_hash, record.committed_plan_hash)
