"""load_policy: a policy.toml as a Policy, its checks in Python found and pinned to their source."""

from __future__ import annotations

import os

from zkmig.api.access import Access, Auth
from zkmig.model.acl import Identity
from zkmig.policy import file
from zkmig.policy.policy import Policy
from zkmig.rules.pychecks import pinned


def load_policy(path: str | os.PathLike[str], auth: Auth | None = None) -> Policy:
    """The policy in a TOML file, which docs/policy.md explains.

    Files that it names (schemas, checks in Python) are looked for beside it; the code of checks is loaded, and so run.
    auth: credentials, for identities given as digest:user; None: what ZKMIG_AUTH holds. BadInput names line and field
    of every fault, those after the first as notes.
    """
    known = Access.of(auth=auth).auth

    def resolve(text: str) -> Identity:
        from zkmig.api.scopes import parse_identity  # only where there is a rule: it loads the control plane

        return parse_identity(text, known)

    return file.load(os.fspath(path), pinned, resolve)
