"""The node "Spectrum Accelerate (Raylight)": the same for models that Raylight's workers hold.

Raylight runs ComfyUI's models in Ray actors: one process a GPU, each with the whole model or a part of it. Its samplers
take RAY_ACTORS instead of a MODEL. An actor applies a function to its model: `model_function_runner(function, *args)`.
What is sent there loads this pack in the actor's process and attaches the settings.
"""

from pathlib import Path
from typing import Any

from comfy_api.latest import io

from .accelerate import chosen_settings, widget
from .settings import COMMON, NODE, OWN, SCHEDULE, TARGET, Settings, all_settings

RAYLIGHT = f"{NODE} (Raylight)"
PACK = Path(__file__).resolve().parent.parent
SECONDS = 120.0
"""How long the workers are waited for."""

SHOWN = [setting for setting in all_settings(str(SCHEDULE.default)) if setting.advanced and setting.name != TARGET.name]
"""The last widgets of the node; the target is always the model output, so that no process waits for another."""


def attach_in_worker(model: Any, folder: str, values: dict[str, Any]) -> Any:
    """Runs in a worker: load the pack in `folder` and attach the settings to the worker's MODEL.

    It is sent by value, so that it may use nothing of this module.
    """
    import importlib.util
    import sys
    from pathlib import Path as Folder

    name = "spectrum_accelerate_in_worker"

    def load(full: str, spec: Any) -> Any:
        if full in sys.modules:
            return sys.modules[full]
        if spec is None or spec.loader is None:
            raise RuntimeError(f"no pack in {folder}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[full] = module
        spec.loader.exec_module(module)
        return module

    start = Folder(folder) / "__init__.py"
    load(name, importlib.util.spec_from_file_location(name, start, submodule_search_locations=[folder]))
    runtime, settings = (
        load(part, importlib.util.find_spec(part)) for part in (f"{name}.nodes.runtime", f"{name}.nodes.settings")
    )
    return runtime.accelerate(model, settings.Settings(**values), shared=True)


attach_in_worker.__module__ = "__main__"  # which Ray sends by value: workers cannot import a folder of custom_nodes


def attach_to_workers(actors: dict[str, Any], settings: Settings) -> None:
    """Attach settings to the model of every worker.

    Args:
        actors: what Raylight's loaders return; its "workers" are Ray actors.
        settings: the target is set to the model output.

    Raises:
        ValueError: if these are no workers of Raylight.
        RuntimeError: if a worker is gone or does not answer; the message says what to do.
    """
    workers = actors.get("workers") if isinstance(actors, dict) else None
    if not workers or not all(hasattr(worker, "model_function_runner") for worker in workers):
        raise ValueError(f"{RAYLIGHT}: ray_actors: connect a loader of Raylight (its workers hold the model)")
    try:
        import ray
    except ImportError:
        raise RuntimeError(f"{RAYLIGHT}: the package ray is missing; install Raylight") from None
    values = {**settings.to_dict(), TARGET.name: "model output"}
    calls = [worker.model_function_runner.remote(attach_in_worker, str(PACK), values) for worker in workers]
    try:
        ray.get(calls, timeout=SECONDS)
    except ray.exceptions.GetTimeoutError:
        raise RuntimeError(f"{RAYLIGHT}: a worker did not answer in {SECONDS:.0f} s; restart ComfyUI") from None
    except ray.exceptions.RayActorError as error:
        raise RuntimeError(f"{RAYLIGHT}: a worker is gone ({type(error).__name__}); restart ComfyUI") from None


class SpectrumAccelerateRaylight(io.ComfyNode):
    """RAY_ACTORS in, RAY_ACTORS out: their models are accelerated when they are sampled."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        schedules = [
            io.DynamicCombo.Option(name, [widget(own) for own in OWN.get(name, ())]) for name in SCHEDULE.options
        ]
        actors = io.Custom("RAY_ACTORS")
        return io.Schema(
            node_id="SpectrumAccelerateRaylight",
            display_name=RAYLIGHT,
            category="model/patch",
            description=(
                "Spectrum Accelerate for Raylight: place it between Raylight's loader and its sampler. Every worker "
                "forecasts the model output at the same steps."
            ),
            search_aliases=["spectrum", "raylight", "ray", "multi gpu", "xdit", "speed"],
            inputs=[
                actors.Input("ray_actors", tooltip="The workers of Raylight's loader."),
                *map(widget, COMMON),
                io.DynamicCombo.Input(SCHEDULE.name, options=schedules, tooltip=SCHEDULE.tooltip),
                *map(widget, SHOWN),
            ],
            outputs=[actors.Output(tooltip="The same workers, accelerated when they sample.")],
            not_idempotent=True,
        )

    @classmethod
    def execute(cls, ray_actors: Any, schedule: dict[str, Any] | None = None, **values: Any) -> io.NodeOutput:
        attach_to_workers(ray_actors, chosen_settings(RAYLIGHT, schedule, values))
        return io.NodeOutput(ray_actors)
