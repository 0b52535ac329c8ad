"""zkmig: consistency-checking migration of ZooKeeper trees.

    plan = zkmig.make_plan(zkmig.read(source), zkmig.read(target))
    result = zkmig.apply(plan, target, scope="prod", epoch=7)

Public names are loaded when they are first used, so that a service that only reads never loads the planner.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zkmig.api.access import SessionOptions
    from zkmig.api.check import check
    from zkmig.api.doctor import diagnose
    from zkmig.api.holding import hold, release
    from zkmig.api.keeping import History, history, prune, remove
    from zkmig.api.migrate import apply, load_plan, make_plan, preflight, resume, rollback, save_plan
    from zkmig.api.policies import load_policy
    from zkmig.api.rehearse import rehearse
    from zkmig.api.revert import Reverted, plan_revert, revert
    from zkmig.api.scopes import Committed, committed, init
    from zkmig.api.scripts import apply_scripts, load_script, plan_script
    from zkmig.api.status import status
    from zkmig.api.trees import Verification, diff, read, save_snapshot, verify
    from zkmig.api.watching import watch
    from zkmig.apply.engine import SealedPlan
    from zkmig.apply.holding import Holding, StillActing
    from zkmig.apply.options import Applied, Progress
    from zkmig.apply.prune import Pruned
    from zkmig.apply.remove import Removed
    from zkmig.apply.rollback import RolledBack
    from zkmig.apply.status import Status
    from zkmig.apply.watching import Sighting
    from zkmig.diff import ComparePolicy, Diff
    from zkmig.doctor.finding import Diagnosis
    from zkmig.epoch.attempts import Attempt
    from zkmig.errors import (
        ActingRefused,
        BadInput,
        Conflict,
        DamagedFile,
        Forbidden,
        Held,
        NotConsistent,
        NotOwner,
        NotPermitted,
        NotProven,
        NotReady,
        NotStable,
        OtherIncarnation,
        Outcome,
        OutcomeUnknown,
        PlanImpossible,
        ReaderError,
        Refused,
        RuleViolated,
        StalePlan,
        Stopped,
        Unavailable,
        UnknownFormat,
        Unreachable,
        WrongEpoch,
        ZkmigError,
    )
    from zkmig.model.acl import Acl, Identity
    from zkmig.model.snapshot import Snapshot
    from zkmig.model.stat import Stat
    from zkmig.model.znode import Kind, Znode
    from zkmig.plan.plan import Limits, Plan
    from zkmig.plan.preflight import Finding
    from zkmig.policy.identities import AclRule
    from zkmig.policy.kinds import KindRule
    from zkmig.policy.leftout import LeftOut
    from zkmig.policy.policy import Policy
    from zkmig.policy.relocation import PathRule
    from zkmig.reader import Budget, BudgetExceeded, Reader, Token, View
    from zkmig.rehearse.result import Rehearsal
    from zkmig.rules.violation import Verdict, Violation
    from zkmig.script.draft import Draft
    from zkmig.script.load import Script
    from zkmig.script.migration import Migration, migration
    from zkmig.stop import StopRequest
    from zkmig.wire.credential import Credential
    from zkmig.wire.tls import Tls

    __version__: str

# fmt: off
_HOMES = {
    "zkmig.api.access": ("SessionOptions",),
    "zkmig.api.doctor": ("diagnose",),
    "zkmig.api.check": ("check",),
    "zkmig.api.holding": ("hold", "release"),
    "zkmig.api.keeping": ("History", "history", "prune", "remove"),
    "zkmig.api.migrate": ("apply", "load_plan", "make_plan", "preflight", "resume", "rollback", "save_plan"),
    "zkmig.api.policies": ("load_policy",),
    "zkmig.api.rehearse": ("rehearse",),
    "zkmig.api.revert": ("Reverted", "plan_revert", "revert"),
    "zkmig.api.scopes": ("Committed", "committed", "init"),
    "zkmig.api.scripts": ("apply_scripts", "load_script", "plan_script"),
    "zkmig.api.status": ("status",),
    "zkmig.api.trees": ("Verification", "diff", "read", "save_snapshot", "verify"),
    "zkmig.api.watching": ("watch",),
    "zkmig.apply.engine": ("SealedPlan",),
    "zkmig.apply.holding": ("Holding", "StillActing"),
    "zkmig.apply.options": ("Applied", "Progress"),
    "zkmig.apply.prune": ("Pruned",),
    "zkmig.apply.remove": ("Removed",),
    "zkmig.apply.rollback": ("RolledBack",),
    "zkmig.apply.status": ("Status",),
    "zkmig.apply.watching": ("Sighting",),
    "zkmig.diff": ("ComparePolicy", "Diff"),
    "zkmig.doctor.finding": ("Diagnosis",),
    "zkmig.epoch.attempts": ("Attempt",),
    "zkmig.errors": (
        "ActingRefused", "BadInput", "Conflict", "DamagedFile", "Forbidden", "Held", "NotConsistent", "NotOwner",
        "NotPermitted", "NotProven", "NotReady", "NotStable", "OtherIncarnation", "Outcome", "OutcomeUnknown",
        "PlanImpossible", "ReaderError", "Refused", "RuleViolated", "StalePlan", "Stopped", "Unavailable",
        "UnknownFormat", "Unreachable", "WrongEpoch", "ZkmigError",
    ),
    "zkmig.model.acl": ("Acl", "Identity"),
    "zkmig.model.snapshot": ("Snapshot",),
    "zkmig.model.stat": ("Stat",),
    "zkmig.model.znode": ("Kind", "Znode"),
    "zkmig.plan.plan": ("Limits", "Plan"),
    "zkmig.plan.preflight": ("Finding",),
    "zkmig.policy.identities": ("AclRule",),
    "zkmig.policy.kinds": ("KindRule",),
    "zkmig.policy.leftout": ("LeftOut",),
    "zkmig.policy.policy": ("Policy",),
    "zkmig.policy.relocation": ("PathRule",),
    "zkmig.reader": ("Budget", "BudgetExceeded", "Reader", "Token", "View"),
    "zkmig.rehearse.result": ("Rehearsal",),
    "zkmig.script.draft": ("Draft",),
    "zkmig.script.load": ("Script",),
    "zkmig.script.migration": ("Migration", "migration"),
    "zkmig.rules.violation": ("Verdict", "Violation"),
    "zkmig.stop": ("StopRequest",),
    "zkmig.wire.credential": ("Credential",),
    "zkmig.wire.tls": ("Tls",),
}
# fmt: on
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Acl",
    "AclRule",
    "ActingRefused",
    "Applied",
    "Attempt",
    "BadInput",
    "Budget",
    "BudgetExceeded",
    "Committed",
    "ComparePolicy",
    "Conflict",
    "Credential",
    "DamagedFile",
    "Diagnosis",
    "Diff",
    "Draft",
    "Finding",
    "Forbidden",
    "Held",
    "History",
    "Holding",
    "Identity",
    "Kind",
    "KindRule",
    "LeftOut",
    "Limits",
    "Migration",
    "NotConsistent",
    "NotOwner",
    "NotPermitted",
    "NotProven",
    "NotReady",
    "NotStable",
    "OtherIncarnation",
    "Outcome",
    "OutcomeUnknown",
    "PathRule",
    "Plan",
    "PlanImpossible",
    "Policy",
    "Progress",
    "Pruned",
    "Reader",
    "ReaderError",
    "Refused",
    "Rehearsal",
    "Removed",
    "Reverted",
    "RolledBack",
    "RuleViolated",
    "Script",
    "SealedPlan",
    "SessionOptions",
    "Sighting",
    "Snapshot",
    "StalePlan",
    "Stat",
    "Status",
    "StillActing",
    "StopRequest",
    "Stopped",
    "Tls",
    "Token",
    "Unavailable",
    "UnknownFormat",
    "Unreachable",
    "Verdict",
    "Verification",
    "View",
    "Violation",
    "WrongEpoch",
    "ZkmigError",
    "Znode",
    "__version__",
    "apply",
    "apply_scripts",
    "check",
    "committed",
    "diagnose",
    "diff",
    "history",
    "hold",
    "init",
    "load_plan",
    "load_policy",
    "load_script",
    "make_plan",
    "migration",
    "plan_revert",
    "plan_script",
    "preflight",
    "prune",
    "read",
    "rehearse",
    "release",
    "remove",
    "resume",
    "revert",
    "rollback",
    "save_plan",
    "save_snapshot",
    "status",
    "verify",
    "watch",
]


def _load(name: str) -> Any:
    if name == "__version__":
        value = _installed_version()
    elif name in _HOME_OF:
        value = getattr(import_module(_HOME_OF[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


if not TYPE_CHECKING:  # a type checker that saw it would take any name for one of ours
    __getattr__ = _load


def _installed_version() -> str:
    # pyproject.toml is the one place that states it. Asked for rarely, and slow to import.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("zkmig")
    except PackageNotFoundError:
        return "0+uninstalled"


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Zkmig(ModuleType):
    """Keeps `zkmig.apply`, `zkmig.diff` and `zkmig.rehearse` the functions.

    The packages and the module of those names would take their place in this namespace as soon as they are imported.
    """

    @property
    def apply(self) -> Any:
        return import_module("zkmig.api.migrate").apply

    @apply.setter
    def apply(self, _: object) -> None:
        pass

    @property
    def diff(self) -> Any:
        return import_module("zkmig.api.trees").diff

    @diff.setter
    def diff(self, _: object) -> None:
        pass

    @property
    def rehearse(self) -> Any:
        return import_module("zkmig.api.rehearse").rehearse

    @rehearse.setter
    def rehearse(self, _: object) -> None:
        pass


sys.modules[__name__].__class__ = _Zkmig
