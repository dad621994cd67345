"""Lets torchvision be imported beside a torch build that its compiled extension does not fit.

torchvision registers Python-side rules for the operators `nms` and `qnms` as soon as it is imported, and fails when its
compiled extension, which defines them, could not be loaded. ComfyUI imports torchvision at start but needs neither
operator here, so declaring the two schemas is enough. dev.py copies this file into the site-packages of its own virtual
environment, beside a `.pth` file that runs `install()` at start-up, and only where `import torchvision` fails. Calling
either operator still raises torch's clear "no kernel" error.
"""

from __future__ import annotations

import importlib.abc
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_libraries: list[object] = []  # torch forgets the operators when the Library object is collected


class OperatorFinder(importlib.abc.MetaPathFinder):
    """Declares the operators just before the first import of torchvision, so that other programs never load torch."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Returns None always: the real torchvision is then found by the ordinary finders."""
        if fullname != "torchvision":
            return None
        sys.meta_path.remove(self)
        import torch.library

        library = torch.library.Library("torchvision", "DEF")
        for schema in SCHEMAS:
            library.define(schema)
        _libraries.append(library)
        return None


def install() -> None:
    """Put the finder first; called by the `.pth` file at interpreter start-up."""
    sys.meta_path.insert(0, OperatorFinder())
