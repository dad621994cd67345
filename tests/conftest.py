"""Boot the real ComfyUI in this process, once, before any test imports it."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))
sys.path.append(str(Path(__file__).resolve().parent))

from demo.inprocess import boot

boot()
