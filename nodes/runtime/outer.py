"""The only wrapper that a MODEL carries: the life of a run (OUTER_SAMPLE).

It gives the run a private copy of the guider's options and puts the run's own wrappers there: one evaluation
(PREDICT_NOISE), its conditionings (CALC_COND_BATCH), and, innermost, one call of the network (APPLY_MODEL). When the
run ends, they are gone with the copy. A run that fails by our fault begins again, as if the node were not there.
"""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import comfy.cli_args
import comfy.model_patcher
import comfy.samplers
import torch
from comfy.model_management import OOM_EXCEPTION, InterruptProcessingException, soft_empty_cache

from .attachment import KEY
from .failures import failure, ours
from .run import SamplingRun

ARGUMENTS = ("noise", "latent_image", "sampler", "sigmas", "denoise_mask", "callback", "disable_pbar", "seed")
"""Of ComfyUI's outer_sample, in order."""


def outer_sample(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """OUTER_SAMPLE wrapper: the life of a run. `args` begin as `ARGUMENTS`."""
    guider = executor.class_obj
    before = guider.model_options
    run: SamplingRun | None = None
    conds, random_state = None, []
    try:
        random_state = _random_state()
        conds = _copied(getattr(guider, "conds", None))
        given = dict(zip(ARGUMENTS, args, strict=False)) | kwargs
        shapes = args[len(ARGUMENTS)] if len(args) > len(ARGUMENTS) else kwargs.get("latent_shapes")
        parts = [math.prod(shape[1:]) for shape in shapes or ()]
        run = SamplingRun(before["transformer_options"][KEY], guider, given["sampler"], given["sigmas"], parts)
        if given.get("callback") is not None:
            given["callback"] = _previewed(given["callback"], run.shown)
        guider.model_options = comfy.model_patcher.create_model_options_clone(before)
        run.install(guider.model_options, masked=given.get("denoise_mask") is not None)
        positional = [given.pop(name) for name in ARGUMENTS[: len(args)]]
        with _without_compiler(run), _followed(guider, run):
            output = executor(*positional, *args[len(ARGUMENTS) :], **given)
        _close(run, "done")
        return output
    except BaseException as error:
        if run is None and not ours(error):
            raise
        again = ours(error) or (run is not None and run.holds_memory and isinstance(error, OOM_EXCEPTION))
        _close(run, _outcome(error))
        if not again:
            raise
        logging.warning("Spectrum: %s; the run starts again without it", failure("Spectrum", error))
    finally:
        guider.model_options = before
    del run
    # Nothing of the run is left: as if the node were not there.
    soft_empty_cache()
    if conds is not None:
        guider.conds = conds
    _set_random_state(random_state)
    return executor(*args, **kwargs)


@contextmanager
def _without_compiler(run: SamplingRun) -> Iterator[None]:
    """ComfyUI's memory compiler, from 0.34 on, records the calls of blocks: not where some skip them."""
    name = "disable_comfy_compiler"
    if not run.active or not hasattr(comfy.cli_args.args, name):
        yield
        return
    before = getattr(comfy.cli_args.args, name)
    setattr(comfy.cli_args.args, name, True)
    try:
        yield
    finally:
        setattr(comfy.cli_args.args, name, before)


@contextmanager
def _followed(guider: Any, run: SamplingRun) -> Iterator[None]:
    """A guider whose call goes around ComfyUI's own asks for no PREDICT_NOISE wrapper: ours is put where it goes."""
    name = "predict_noise"
    if not run.active or type(guider).__call__ is comfy.samplers.CFGGuider.__call__ or name in vars(guider):
        yield
        return
    setattr(guider, name, partial(run.predict_noise, getattr(guider, name)))
    try:
        yield
    finally:
        delattr(guider, name)


def _close(run: SamplingRun | None, outcome: str) -> None:
    """Close a run; what fails then is said in the log only: the picture is there."""
    try:
        if run is not None:
            run.close(outcome)
    except Exception as error:
        logging.warning("Spectrum: %s", failure("ending a run", error))


def _outcome(error: BaseException) -> str:
    """What an error makes of a run."""
    # ComfyUI's interrupt is an Exception in 0.18, no longer in 0.24.
    interrupted = isinstance(error, InterruptProcessingException) or not isinstance(error, Exception)
    return "interrupted" if interrupted else "error"


def _random_state() -> list[torch.Tensor]:
    """Of torch's generators: the CPU's, then each CUDA device's. Some samplers draw from the device's."""
    return [torch.random.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [])]


def _set_random_state(state: list[torch.Tensor]) -> None:
    """What `_random_state` gave."""
    if state:
        torch.random.set_rng_state(state[0])
        torch.cuda.set_rng_state_all(state[1:])


def _copied(conds: Any) -> Any:
    """A guider's conditionings, which sampling changes."""
    if not isinstance(conds, dict):
        return None
    return {name: [dict(cond) for cond in group] for name, group in conds.items()}


def _previewed(callback: Callable[..., Any], shown: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., Any]:
    """A sampler's callback that is given the denoised latent as it would be without the corrector."""

    def call(step: int, denoised: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return callback(step, shown(denoised), *args, **kwargs)

    return call
