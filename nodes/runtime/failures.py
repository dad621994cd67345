"""Errors: whose they are, and what the user is told."""

import logging
import traceback
from pathlib import Path

import torch
from comfy.model_management import OOM_EXCEPTION, InterruptProcessingException

from ...spectrum_core.messages import Message, Text, say
from ..models.taps import TapError
from .ranks import RankError

PACK = tuple(str(Path(__file__).resolve().parents[2] / folder) for folder in ("nodes", "spectrum_core"))
LIBRARIES = tuple(str(Path(module.__file__ or "").parent) for module in (torch, logging))
"""Code that only does what its caller asked for: an error in it is the caller's."""


def ours(error: BaseException) -> bool:
    """Whether an error began in our code, rather than in what it calls."""
    if isinstance(error, InterruptProcessingException | RankError) or not isinstance(error, Exception):
        return False
    files = []
    trace = error.__traceback__
    while trace is not None:
        files.append(trace.tb_frame.f_code.co_filename)
        trace = trace.tb_next
    innermost = next((file for file in reversed(files) if not file.startswith(LIBRARIES)), "")
    return innermost.startswith(PACK)


def failure(what: str, error: BaseException) -> Message:
    """What went wrong, for the user. The error is spent: frames that it holds would keep tensors alive."""
    traceback.clear_frames(error.__traceback__)
    error.__traceback__ = error.__context__ = None
    if isinstance(error, OOM_EXCEPTION):
        return say(Text.OUT_OF_MEMORY)
    return say(Text.FAILED, what=what, error=describe(error))


def describe(error: BaseException) -> str:
    """An error in a few words."""
    if isinstance(error, OOM_EXCEPTION):
        return "out of memory"
    text = str(error) if isinstance(error, TapError) else f"{type(error).__name__}: {error}"
    return text if len(text) <= 200 else text[:200] + "..."
