"""The net below: whatever makes features jump unseen, the damage is two gaps and not a picture."""

import torch
from beside import STEPS, beside, own
from spectrum_accelerate.spectrum_core.messages import Text


def test_features_that_do_not_go_on_stop_the_forecasts():
    """A patch that changes what the blocks compute, by a switch that no call shows."""
    drawn = torch.Generator()

    def patched(model):
        def patch(args, extra):
            out = extra["original_block"](args)
            sigma = float(args["transformer_options"]["sigmas"][0])
            drawn.manual_seed(int(sigma * 1e6))  # another direction at each noise level, the same in both runs
            noise = torch.randn(out["img"].shape[1:], generator=drawn)
            return {**out, "img": out["img"] + 3 * noise * out["img"].std()}

        clone = model.clone()
        clone.set_model_patch_replace(patch, "dit", "double_block", 1)
        return clone

    outcome = beside(lambda: own("euler"), patched)
    assert any(note.text is Text.STOPPED and "did not go on as forecast" in str(note) for note in outcome.trace.notes)
    stopped = outcome.trace.kinds.rindex("f")
    assert outcome.trace.kinds[stopped + 1 :] == "c" * (STEPS - stopped - 1) and stopped < STEPS * 3 // 4
