"""Numbering: scripts stand in a directory as NNNN_slug.py, and the number is the epoch that each makes."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from keyword import iskeyword

from zkmig.errors import BadInput, Refused

DIGITS = 4
SLUG_MAX = 80

_NAME = re.compile(r"([0-9]{4,9})_([A-Za-z0-9]+(?:_[A-Za-z0-9]+)*)\.py")
_MEANT = re.compile(r"[0-9].*\.py", re.DOTALL)
_FORM = "name it like 0007_split_pools.py"


def number_of(path: str) -> int:
    """The number that a file's name begins with. BadInput where the name is not NNNN_slug.py."""
    name = os.path.basename(path)
    found = _NAME.fullmatch(name)
    if found is None or found[1] != f"{int(found[1]):0{DIGITS}}" or int(found[1]) == 0:
        raise BadInput("this is no name of a migration script", path, _FORM)
    return int(found[1])


def scripts_in(directory: str) -> dict[int, str]:
    """Paths of the scripts in a directory by their number, in order.

    Files whose names do not begin with a digit, or do not end with .py, are none. Refused for two of one number, and
    for a name that is meant to be one and is not. BadInput if it is no directory.
    """
    try:
        names = sorted(entry.name for entry in os.scandir(directory) if not entry.is_dir())
    except OSError as error:
        raise BadInput(
            f"it cannot be read: {error.strerror}", directory, "name the directory of the scripts"
        ) from error
    found: dict[int, str] = {}
    for name in names:
        if not _MEANT.fullmatch(name):
            continue
        path = os.path.join(directory, name)
        try:
            number = number_of(path)
        except BadInput as error:
            raise Refused(error.what, path, error.hint) from None
        if number in found:
            raise Refused(f"two scripts are for epoch {number}", f"{found[number]}, {path}", "give one another number")
        found[number] = path
    return dict(sorted(found.items()))


def refuse_gaps(directory: str, numbers: Iterable[int], first: int, last: int) -> None:
    """Refused unless each of first to last is there."""
    there = set(numbers)
    missing = next((number for number in range(first, last + 1) if number not in there), None)
    if missing is not None:
        raise Refused(f"there is no script for epoch {missing}", directory, f"epochs {first} to {last} are wanted")


def slug_of(title: str) -> str:
    """ "Split pools!" -> split_pools. BadInput where nothing is left."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode()
    slug = "_".join(re.findall(r"[a-z0-9]+", plain.lower()))[:SLUG_MAX].strip("_")
    if not slug:
        raise BadInput("the title holds no letter or digit", repr(title), 'write it like "split pools"')
    return slug


def new_script(directory: str, title: str, scope: str | None = None) -> tuple[str, str]:
    """Path and text of a script for the number after those that are there."""
    number = max(scripts_in(directory), default=0) + 1 if os.path.isdir(directory) else 1
    slug = slug_of(title)
    function = f"migrate_{slug}" if slug[0].isdigit() or iskeyword(slug) else slug
    one_line = (
        "".join(char for char in " ".join(title.split()) if char.isprintable()).replace("\\", "\\\\").replace('"', "'")
    )
    where = f", scope={scope!r}" if scope is not None else ""
    text = _TEMPLATE.format(title=one_line, number=number, scope=where, function=function)
    return os.path.join(directory, f"{number:0{DIGITS}}_{slug}.py"), text


_TEMPLATE = '''\
"""{title}.

`zkmig plan THIS_FILE --to zk://HOSTS/PATH -o FILE.zkplan` shows what it would do; nothing is written by that.
"""

from __future__ import annotations

import zkmig


@zkmig.migration(epoch={number}{scope})
def {function}(tree: zkmig.Draft) -> None:
    """{title}"""
    # The tree as it is, to be changed into what it is to be. It has to come out the same each time: no clock, no
    # random numbers, no going through sets of text. Paths are absolute.
    #
    #   tree.get("/app/pools/web")                      the znode, or None; tree.data(path), tree.acl(path)
    #   tree.exists(path), tree.children(path), tree.walk(path)
    #   tree.find("/app/pools/{{pool}}/hosts/{{host}}")     pairs of a path and what stands for {{pool}} and {{host}}
    #
    #   tree.set(path, b"data")                         of a znode that is there; tree.set_acl(path, acl)
    #   tree.create(path, b"data", makepath=True)       of one that is not
    #   tree.delete(path, recursive=True)
    #   tree.move(source, target), tree.copy(source, target)    with all below, ACLs and sequence counters too
    #   tree.get_json(path), tree.set_json(path, value), tree.update_json(path, {{"size": 3}})
    raise NotImplementedError("write the migration")
'''
