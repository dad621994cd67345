"""What would the default schedule compute on real models? Published profiles, beside plans that others optimised.

    python dev.py bench plans   # docs/plans.md

No model runs. The published change of the last hidden output from step to step stands for what the schedule measures in
the second computed step. A plan is judged by how much the model changes between two computed steps, at most: what a
forecast has to bridge. Errors at the start are carried through the whole run, which this does not count.
"""

import itertools
import json
import logging
from pathlib import Path

import numpy as np

from demo import inprocess

inprocess.boot()

from spectrum_accelerate.spectrum_core.schedule import Request  # noqa: E402  (only after boot)
from spectrum_accelerate.spectrum_core.schedule.adaptive import Adaptive, Placed  # noqa: E402
from spectrum_accelerate.spectrum_core.schedule.base import State  # noqa: E402

log = logging.getLogger("plans")
HERE = Path(__file__).resolve().parent
OUTPUT = HERE.parent / "docs" / "plans.md"
SHIFT = 3.0
"""Of the flow's noise levels; those of the published runs lie between 2.5 and 3.5."""

PLANS = (
    ("Z-Image", 50, "MeanCache", (0, 1, 2, 3, 5, 7, 10, 12, 17, 25, 33, 41, 45, 48, 49)),
    ("Z-Image", 50, "MeanCache", (0, 1, 2, 3, 5, 9, 15, 22, 29, 36, 43, 47, 49)),
    ("Qwen-Image", 50, "MeanCache", (*range(9), 10, 17, 24, 31, 38, 45, 48, 49)),
    ("Qwen-Image", 50, "MeanCache", (0, 1, 3, 7, 14, 21, 28, 35, 42, 49)),
    ("Qwen-Image", 20, "", 8),
    ("FLUX.1 Krea", 28, "", 10),
    ("FLUX.2 klein base", 25, "", 9),
)
"""Model, steps, who optimised a plan (UnicomAI/MeanCache, Apache-2.0), and the plan, or how many steps to compute."""


def noise_left(steps: int) -> tuple[float, ...]:
    """Noise levels of a flow, shape [steps + 1]."""
    even = np.linspace(1, 0, steps + 1)
    return tuple((SHIFT * even / (1 + (SHIFT - 1) * even)).tolist())


def passed(published: list[float], steps: int) -> np.ndarray:
    """How much the model has changed before each step, by a profile of another number of steps: float64 [steps]."""
    measured = np.concatenate([[0.0], np.cumsum(published)])
    levels = np.asarray(noise_left(len(measured))[:-1])
    wanted = np.asarray(noise_left(steps)[:-1])
    return np.interp(-wanted, -levels, measured)


def ours(times: tuple[float, ...], count: int, changed: np.ndarray) -> tuple[list[int], float]:
    """The steps that the default computes, and the k that it sees."""
    schedule = Adaptive.build(Request(times, interval=3.3, evaluations=count))
    state: State = State()
    computed: list[int] = []
    for step in range(len(times) - 1):
        if schedule.reason(state, step, len(times) - 1) is None:
            continue
        state = schedule.step(state, step)
        computed.append(step)
        if len(computed) > 1 and schedule.curious(state):
            before = computed[-2]
            state = schedule.learn(state, step, before, float(changed[step] - changed[before]))
    assert isinstance(state, Placed)
    return computed, state.k


def widest(plan: list[int] | tuple[int, ...], changed: np.ndarray) -> float:
    """Most that changes from one computed step to the next."""
    return float(max(changed[b] - changed[a] for a, b in itertools.pairwise(plan)))


HEADER = """# The default schedule on published profiles

`python dev.py bench plans`. No model was run: published figures stand for what the schedule measures in its second
computed step ({source}). Noise levels with shift {shift:g}. *most change*: what the model changes by from one computed
step to the next, at most. *evenly*: as many steps, evenly spread. MeanCache's plans were optimised on the real models.

{table}
"""


def main() -> None:
    profiles = json.loads((HERE / "step_change.json").read_text())
    lines = ["| model | steps | plan | computed | most change |", "|---|---|---|---|---|"]
    for name, steps, author, given in PLANS:
        changed, times = passed(profiles["models"][name], steps), noise_left(steps)
        count = given if isinstance(given, int) else len(given)
        plan, k = ours(times, count, changed)
        even = np.unique(np.linspace(0, steps - 1, count).round().astype(int)).tolist()
        rows = [(f"ours, k = {k:.1f} seen", plan), ("evenly", even)]
        if not isinstance(given, int):
            rows.insert(1, (author, list(given)))
        for who, computed in rows:
            places = " ".join(map(str, computed))
            lines.append(f"| {name} | {count} of {steps} | {who} | {places} | {widest(computed, changed):.2f} |")
    table = "\n".join(lines)
    log.info(table)
    OUTPUT.write_text(HEADER.format(source=profiles["source"], shift=SHIFT, table=table))


if __name__ == "__main__":
    main()
