"""Spectrum Accelerate: ComfyUI sampling with a fraction of the network evaluations."""

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]


async def comfy_entrypoint():  # noqa: ANN201 (its type would need the import)
    """ComfyUI's way in. The import waits until ComfyUI asks, so that tools can import the folder without it."""
    from .nodes import SpectrumExtension

    return SpectrumExtension()
