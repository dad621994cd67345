"""Every sentence about a run that a user reads, in one place: templates, and messages that fill them in.

Code compares members, never texts. The page translates a message by its key.
"""

from dataclasses import dataclass
from enum import Enum


class Reason(Enum):
    """Why an evaluation was computed."""

    WARMUP = "warm-up"
    SCHEDULE = "schedule"
    TAIL = "tail"
    BEFORE_START = "before start_percent"
    AFTER_END = "after end_percent"
    IRREGULAR = "a step with another number of evaluations"
    PROBING = "watching an unknown sampler"
    MOVED = "a call that sees another part of the latent"
    NO_HISTORY = "a conditioning without enough history"
    ERROR_LIMIT = "estimated error too high"
    BEYOND = "more evaluations than steps"
    OFF = "not accelerated"

    @property
    def scheduled(self) -> bool:
        """Whether the schedule chose it, rather than something that it does not know."""
        return self in (Reason.WARMUP, Reason.SCHEDULE, Reason.TAIL)

    @property
    def unforeseen(self) -> bool:
        """Whether something new began in mid-run, which no plan could know."""
        return self in (Reason.MOVED, Reason.NO_HISTORY)


class Text(Enum):
    """Templates. The part before a colon, if any, is repeated in no other one."""

    # why nothing is accelerated
    NEVER = "{widget} = 1 computes every step; raise it to accelerate"
    TOO_FEW_STEPS = "{steps} steps in one call of the sampler are too few: {least} are always computed; use more steps"
    ALL_COMPUTED = (
        "{steps} steps are too few for warmup = {warmup} and tail = {tail}; use more steps or lower these widgets"
    )
    ALL_WANTED = "these settings and cfg compute all {steps} steps; raise skip_interval, or lower {widget} or cfg"
    OUTSIDE = "start_percent and end_percent leave no step to forecast; widen them"
    SAMPLER = 'sampler "{sampler}" {obstacle}'
    CONFLICT = "{other} is on the same MODEL; remove one of the two"
    SWITCHED = "another pack replaces the model's {method} in each call, as caches do; remove one of the two"
    BANK = "{bank} keeps values of every step, so every step is computed"
    MOVING = "another pack changes from step to step which part of the latent a call gets"
    ANSWERED = "another pack answered a step without calling the model, as caches do; remove one of the two"
    DISCONTINUED = "the model's features did not go on as forecast, twice in a row; something changes them in mid-run"
    RANKS = "the workers disagreed about a step"
    GRADIENTS = "gradients are on"
    UNSEEN = "the guider calls the model in a way that Spectrum cannot follow"
    TOO_SHORT = 'sampler "{sampler}" is unknown and the run ended before it was understood'
    OFF_LEVELS = 'sampler "{sampler}" left the noise levels of its steps'
    UNKNOWN_SAMPLER = 'unknown sampler "{sampler}" {obstacle}'
    RESIZED = "the sampler changes the size of the latent"
    NOTHING = "no step could be forecast"
    ROWS = "another node pack changed which conditionings a call holds"
    OUT_OF_MEMORY = "out of memory; the cached features were freed"
    NOT_FINITE = "the model's features are not finite"
    FAILED = "{what} failed ({error})"
    # notes
    STOPPED = "stopped: {reason}"
    ERROR_LIMIT = "estimated error above {limit}: the remaining steps are computed"
    UNCORRECTED = "forecasts are not corrected ({problem})"
    FALLBACK = 'falling back to target "model output" ({problem})'
    DISCOVERED = "{network} is not in the table; found by watching a call: {blocks}, then {head}"
    NOISY = 'unknown sampler "{sampler}" adds noise: at most {speedup}x fewer evaluations'


@dataclass(frozen=True)
class Message:
    """A filled-in template.

    >>> str(say(Text.NEVER, widget="skip_interval"))
    'skip_interval = 1 computes every step; raise it to accelerate'
    """

    text: Text
    values: "tuple[tuple[str, str | Message], ...]" = ()

    def __str__(self) -> str:
        return self.text.value.format(**{name: str(value) for name, value in self.values})


def say(text: Text, **values: object) -> Message:
    """A message; numbers are shortened, messages are kept."""

    def shown(value: object) -> str | Message:
        if isinstance(value, Message):
            return value
        return f"{value:g}" if isinstance(value, float) else str(value)

    return Message(text, tuple((name, shown(value)) for name, value in values.items()))
