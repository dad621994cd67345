"""Everything that knows ComfyUI."""

from comfy_api.latest import ComfyExtension, io

from .accelerate import SpectrumAccelerate
from .compare import SpectrumCompare
from .raylight import SpectrumAccelerateRaylight
from .report import SpectrumReport
from .routes import register


class SpectrumExtension(ComfyExtension):
    """The nodes of this pack."""

    async def on_load(self) -> None:
        """What the page asks for, beside the nodes."""
        register()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [SpectrumAccelerate, SpectrumReport, SpectrumCompare, SpectrumAccelerateRaylight]
