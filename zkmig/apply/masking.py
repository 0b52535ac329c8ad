"""Masking: which nodes of an attempt no output tells the data of, nor a hash of it, once its plan is out of sight."""

from __future__ import annotations

from zkmig.epoch.attempts import MASKS_ALL, AttemptNote
from zkmig.errors import BadInput
from zkmig.policy.captures import CapturePattern


def kept_masks(note: AttemptNote) -> tuple[str, ...]:
    """Patterns, as text. What is no pattern to us masks everything: it may have been one to a later zkmig."""
    try:
        return tuple(CapturePattern.parse(text).text for text in note.masks)
    except BadInput:
        return MASKS_ALL
