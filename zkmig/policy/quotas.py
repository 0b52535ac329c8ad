"""Quotas to carry: those of the source's scope, on the subtrees that they are to limit on the target."""

from __future__ import annotations

from collections.abc import Iterable

from zkmig.model import path as paths
from zkmig.model.quota import Quota
from zkmig.policy.carry import Prepared


def carried_quotas(
    quotas: Iterable[Quota], ready: Prepared, source_root: str, target_root: str, is_asked: bool = True
) -> tuple[tuple[Quota, ...], tuple[str, ...]]:
    """(quotas for the target, source paths of those that are not carried).

    Not carried: all, unless it is asked for; and what lies outside the selection, on a node that is not carried itself,
    would limit "/", where a server heeds none, or is none that a server can read: one that enforces quotas would then
    refuse every write below.
    """
    carried: list[Quota] = []
    left: list[str] = []
    for quota in quotas:
        relative = ready.relocation.image(paths.relative_to(quota.path, source_root))
        target = paths.join(target_root, relative)
        is_selected = not ready.includes or any(paths.contains(top or "/", relative) for top in ready.includes)
        is_there = paths.join(ready.source.root, relative) in ready.source
        if is_asked and target != "/" and is_selected and is_there and quota.is_readable:
            carried.append(Quota(target, quota.text))
        else:
            left.append(quota.path)
    return tuple(carried), tuple(left)
