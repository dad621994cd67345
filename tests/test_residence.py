"""Conditionings live on the model's device while a run forecasts: copied once, equal, freed in the end."""

import comfy.conds
import pytest
import torch
from sampling import runs
from spectrum_accelerate.nodes.models import residence
from spectrum_accelerate.nodes.models.residence import MOST, MOST_BYTES, Residence
from spectrum_accelerate.nodes.runtime import accelerate
from spectrum_accelerate.nodes.settings import Settings
from zoo import MODELS

DEVICE = torch.device("meta")  # the one beside the CPU that every machine has


def texts(*tensors):
    """One conditioning as ComfyUI prepares it, one without, and one output that nobody wants."""
    parts = {f"part {i}": comfy.conds.CONDRegular(tensor) for i, tensor in enumerate(tensors)}
    constant = comfy.conds.CONDConstant(torch.ones(1))
    several = comfy.conds.CONDList([torch.ones(1, 2), torch.ones(1, 3)])
    return [[{"uuid": 1, "model_conds": {**parts, "constant": constant, "several": several}}, {"uuid": 2}], None]


def test_a_text_is_copied_once():
    given, holder = texts(torch.ones(1, 4, 8)), Residence()
    first, again = holder.moved(given, DEVICE), holder.moved(given, DEVICE)
    own = first[0][0]["model_conds"]
    assert own["part 0"].cond.device == DEVICE and own["part 0"].cond.shape == (1, 4, 8)
    assert own["part 0"].cond is again[0][0]["model_conds"]["part 0"].cond
    assert [part.device for part in own["several"].cond] == [DEVICE, DEVICE]
    assert own["constant"] is given[0][0]["model_conds"]["constant"]
    assert first[0][1] is given[0][1] and first[1] is None and first[0][0]["uuid"] == 1
    assert given[0][0]["model_conds"]["part 0"].cond.device.type == "cpu"  # others' objects stay as they are
    assert len(holder) == 2


def test_what_is_there_already_is_passed_on():
    given, holder = texts(torch.ones(1, 4, 8)), Residence()
    found = holder.moved(given, torch.device("cpu"))
    assert found[0][0]["model_conds"]["part 0"] is given[0][0]["model_conds"]["part 0"] and not len(holder)


def test_texts_that_are_new_all_the_time_stay_where_they_are():
    holder = Residence()
    kept = [texts(torch.ones(1, 2)) for _ in range(MOST)]
    found = [holder.moved(given, DEVICE) for given in kept]
    assert found[-1] is kept[-1] and not len(holder)


def test_what_takes_much_memory_stays_where_it_is():
    given, holder = texts(torch.ones(1, 2)), Residence()
    assert holder.moved(given, DEVICE) is not given
    large = texts(torch.ones(1).expand(MOST_BYTES // 4 + 1))
    assert holder.moved(large, DEVICE) is large and not len(holder)


def test_without_room_they_stay_where_they_are(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("simulated")

    given, holder = texts(torch.ones(1, 4)), Residence()
    monkeypatch.setattr(residence, "_to", full)
    assert holder.moved(given, DEVICE) is given
    monkeypatch.undo()
    assert holder.moved(given, DEVICE) is given and not len(holder)


def test_conditionings_of_another_kind_end_no_run(monkeypatch):
    """One of a pack whose tensor cannot be replaced: the run goes on with what it was given."""

    class Fixed(comfy.conds.CONDRegular):
        cond = property(lambda self: self.given)

        def __init__(self, cond):
            self.given = cond

    given, holder = [[{"model_conds": {"text": Fixed(torch.ones(1, 2))}}]], Residence()
    assert holder.moved(given, DEVICE) is given and not len(holder)
    model = MODELS["flux"].build()

    def fault(*_):
        raise RuntimeError("simulated")

    monkeypatch.setattr(Residence, "_one", fault)
    fast = accelerate(model, Settings.of())
    assert torch.isfinite(MODELS["flux"].sample(fast, steps=8)).all()
    assert "f" in runs(fast)[-1].kinds and runs(fast)[-1].off is None


@pytest.mark.parametrize("name", ["flux", "sd15", "wan21_t2v"])
def test_a_run_is_the_same_with_them(name, monkeypatch):
    """As if everything were elsewhere: each evaluation gets the copies, and none is held once the run is over."""
    kind = MODELS[name]
    model, holders = kind.build(), []
    without = kind.sample(accelerate(model, Settings.of()), steps=8)
    clear = Residence.clear

    def watched(self):
        holders.append((self, len(self)))
        clear(self)

    monkeypatch.setattr(residence, "_elsewhere", lambda held, device: torch.is_tensor(held))
    monkeypatch.setattr(residence, "_to", lambda part, device: part.clone())
    monkeypatch.setattr(Residence, "clear", watched)
    fast = accelerate(model, Settings.of())
    assert torch.equal(kind.sample(fast, steps=8), without)
    assert "f" in runs(fast)[-1].kinds
    assert max(held for _, held in holders) > 0 and not any(len(holder) for holder, _ in holders)
