"""What the page asks the server for: runs that it has not seen, and the plan of a run that has not begun."""

import math
import sys
from collections.abc import Mapping
from typing import Any

from ..spectrum_core.messages import Message, Text, say
from .runtime.policy import Policy, Range
from .runtime.progress import described, kept
from .samplers.table import by_widget
from .settings import ADAPTIVE, Settings

RUNS, PLAN = "/spectrum_accelerate/runs", "/spectrum_accelerate/plan"

STEPS_LIMIT = 1000
"""Most steps that a plan is made for."""


def planned(values: Mapping[str, Any], steps: int, sampler: str = "", guidance: float = 1.0) -> str | Message:
    """Which steps a run would compute, or why none could be forecast.

    The noise levels of the run are not known yet, so they are taken as evenly spaced; the adaptive schedule moves its
    steps when it has seen the model.

    Args:
        values: the node's widgets; those of a schedule by their own names.
        steps: of the run.
        sampler: its name in the sampler's widget, if known.
        guidance: scale of classifier-free guidance, if known.

    Returns:
        "c" (computed) or "f" (forecast) for each step, or the reason.

    Raises:
        ValueError, TypeError: for values that no node can have.
    """
    if not 1 <= steps <= STEPS_LIMIT:
        raise ValueError(f"steps = {steps}: use 1 to {STEPS_LIMIT}")
    if not math.isfinite(guidance):
        raise ValueError(f"cfg = {guidance}: use a number")
    settings = Settings.of(**values)
    info = by_widget(sampler)
    if info.obstacle:
        return say(Text.SAMPLER, sampler=sampler, obstacle=info.obstacle)
    never = settings.never()
    if never is not None:
        return never
    times = [1 - step / steps for step in range(steps + 1)]
    guarded = settings.schedule == ADAPTIVE and not settings.evaluations
    span = Range(*settings.noise_range(lambda percent: 1 - percent))
    schedule = settings.schedule_for(
        times, info.max_speedup, info.stages, 0, guidance, span.ends(times), info.multistep
    )
    policy = Policy(schedule, times, span, guarded)
    reason = policy.unsuitable()
    if reason is not None:
        return reason
    computed = set(policy.planned())
    return "".join("c" if step in computed else "f" for step in range(steps))


def register() -> None:
    """Add the routes to ComfyUI's server, where there is one."""
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if server is None:
        return
    from aiohttp import web  # ComfyUI's own; without its server it may be missing

    @server.routes.get(RUNS)
    async def runs(request: Any) -> Any:
        return web.json_response(kept(request.query.get("workflow", "")))

    @server.routes.post(PLAN)
    async def plan(request: Any) -> Any:
        try:
            asked = await request.json()
            guidance = float(asked.get("cfg") or 1.0)
            found = planned(asked["values"], int(asked["steps"]), str(asked.get("sampler", "")), guidance)
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.json_response({"kinds": found} if isinstance(found, str) else {"off": described(found)})
