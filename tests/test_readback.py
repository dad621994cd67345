"""Numbers and durations from the device (here: the host itself)."""

import time

import pytest
import torch
from spectrum_accelerate.spectrum_core.readback import Readback, Stopwatch

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_a_number_on_the_host_is_there_at_once_and_stays(dtype):
    readback = Readback(torch.tensor(2.5, dtype=dtype))
    assert (readback.poll(), readback.wait(), readback.poll()) == (2.5, 2.5, 2.5)


def test_the_number_is_the_one_at_the_time_of_asking():
    value = torch.tensor(1.0)
    readback = Readback(value)
    value.fill_(7.0)
    assert readback.poll() == readback.wait() == 1.0


def test_a_stopwatch_measures_from_its_construction_to_stop():
    before = time.perf_counter()
    stopwatch = Stopwatch(CPU)
    time.sleep(0.03)
    stopwatch.stop(CPU)
    after = time.perf_counter()
    time.sleep(0.03)
    assert 0.03 <= stopwatch.wait() <= after - before
    assert stopwatch.wait() == stopwatch.wait()
