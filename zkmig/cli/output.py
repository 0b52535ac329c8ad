"""Files that commands write: refused before the work rather than after it."""

from __future__ import annotations

import os

from zkmig.errors import BadInput


def check_output(path: str, force: bool) -> None:
    """Refuse a name that cannot be written, before the work rather than after it."""
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path):
        raise BadInput("this is a directory", path, "choose another name")
    if os.path.lexists(path) and not force:
        raise BadInput("the file exists", path, "choose another name, or overwrite it with --force")
    if not os.path.isdir(folder):
        raise BadInput("its directory does not exist", path, "choose another name")
    if not os.access(folder, os.W_OK):
        raise BadInput("its directory cannot be written", path, "choose another name")
