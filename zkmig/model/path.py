"""Paths: validity, tree order, and containment by whole components.

A path is an absolute str: "/" or "/a/b". Containment never looks at string prefixes alone ("/app" does not contain
"/apple").
"""

from __future__ import annotations

from zkmig.errors import BadInput

SYSTEM_ROOT = "/zookeeper"  # the server's own subtree: quotas, config
CONTROL_ROOT = "/zkmig"  # default place of the control plane


def validate(path: str) -> str:
    """Return `path` unchanged if ZooKeeper would accept it (PathUtils.validatePath), else raise BadInput."""
    reason = _invalid_reason(path)
    if reason:
        raise BadInput(f"not a znode path: {reason}", repr(path), "paths look like /app/pools")
    return path


def _invalid_reason(path: str) -> str:
    if not path.startswith("/"):
        return "it must start with /"
    if path == "/":
        return ""
    for component in path[1:].split("/"):
        if component == "":
            return "empty component"
        if component in (".", ".."):
            return "relative component"
        for char in component:
            if _is_refused(char):
                return f"character {char!r} is not allowed"
    return ""


def _is_refused(char: str) -> bool:
    # PathUtils.validatePath: NUL, C0 and C1 controls, surrogates and private use, and U+FFF0 to U+FFFF. Characters
    # beyond the BMP reach Java as surrogate pairs, so they are refused as well.
    code = ord(char)
    return code <= 0x1F or 0x7F <= code <= 0x9F or 0xD800 <= code <= 0xF8FF or 0xFFF0 <= code


def order_key(path: str) -> bytes:
    """Sort key of tree order: depth first, parents before children, siblings by UTF-8 bytes.

    Sorting paths as plain strings tears subtrees apart (/a, /a-b, /a/b). NUL is illegal in paths and below every
    legal byte, so replacing the separator by it keeps each subtree together.
    """
    return b"" if path == "/" else path.encode().replace(b"/", b"\0")


def parent(path: str) -> str:
    """Parent of a path other than "/"."""
    head = path.rpartition("/")[0]
    return head or "/"


def name(path: str) -> str:
    """Last component; "" for "/"."""
    return path.rpartition("/")[2]


def join(root: str, relative: str) -> str:
    """`relative` is "" (the root itself) or begins with "/"."""
    if not relative:
        return root
    return relative if root == "/" else root + relative


def relative_to(path: str, root: str) -> str:
    """The inverse of join: "" for the root itself, else "/..."; the path must lie inside the root."""
    if root == "/":
        return "" if path == "/" else path
    if not contains(root, path):
        raise BadInput(f"not inside {root}", path)
    return path[len(root) :]


def contains(root: str, path: str) -> bool:
    """Whether `path` is `root` or below it, by whole components."""
    return root == "/" or path == root or path.startswith(root + "/")


def overlap(one: str, other: str) -> bool:
    """Whether one of two subtrees contains the other."""
    return contains(one, other) or contains(other, one)
