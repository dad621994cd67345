"""The node for Raylight, with real Ray: actors with the calls of Raylight's workers around ComfyUI's own class.

What is no part of this machine: Raylight itself, xFuser, and several GPUs. The workers here split each call as
CFG-parallel ones do: each runs the network for its share of the rows, and torch.distributed (gloo) joins the results.
"""

import os
import socket
import subprocess
import sys

import pytest
import ray
import torch
from beside import beside, own
from spectrum_accelerate.nodes import raylight
from spectrum_accelerate.nodes.settings import Settings

from demo import inprocess

STEPS = 16


@ray.remote(num_cpus=1)
class Worker:
    """A worker as Raylight's: it holds a model, applies functions to it, and samples."""

    def __init__(self, root, rank, size, port):
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # the name of this machine need not lead to it
        sys.path[:0] = [root, f"{root}/tests"]
        from demo import inprocess

        inprocess.boot()
        torch.set_num_threads(1)
        self.rank, self.size = rank, size
        torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
        self.model = self._parallel(inprocess.embedded_model())
        self.calls, self.dies_at = 0, None

    def _parallel(self, model):
        """The split happens inside of the network's call, below every wrapper, as xFuser's does."""
        network = model.model.diffusion_model
        forward = type(network).forward.__get__(network)
        worker = self

        class Parallel(type(network)):
            def forward(self, x, timestep, context, *args, **kwargs):
                worker.calls += 1
                if worker.dies_at is not None and worker.calls >= worker.dies_at:
                    os._exit(1)
                split = [v.tensor_split(worker.size)[worker.rank] for v in (x, timestep, context)]
                kwargs = {
                    k: v.tensor_split(worker.size)[worker.rank] if torch.is_tensor(v) and len(v) == len(x) else v
                    for k, v in kwargs.items()
                }
                args = [v.tensor_split(worker.size)[worker.rank] if torch.is_tensor(v) else v for v in args]
                own = forward(*split, *args, **kwargs)
                parts = [torch.empty_like(own) for _ in range(worker.size)]
                torch.distributed.all_gather(parts, own.contiguous())
                return torch.cat(parts)

        network.__class__ = Parallel
        return model

    def model_function_runner(self, fn, *args, **kwargs):
        self.model = fn(self.model, *args, **kwargs)

    def fail_at(self, calls):
        self.dies_at = calls

    def differ(self, step):
        """A rank that comes to another decision."""
        policy = sys.modules["spectrum_accelerate_in_worker"].nodes.runtime.policy
        decide = policy.Policy.decide
        reason = sys.modules["spectrum_accelerate_in_worker"].spectrum_core.messages.Reason

        def other(policy_, index):
            return reason.SCHEDULE if index == step else decide(policy_, index)

        policy.Policy.decide = other

    def sample(self, cfg):
        """Raylight's samplers do that in each worker."""
        from beside import latents, own

        self.calls = 0
        result = latents(self.model, own("euler"), cfg=cfg, steps=STEPS)
        pack = sys.modules.get("spectrum_accelerate_in_worker")
        attached = pack and pack.nodes.runtime.attachment(self.model)
        trace = attached.runs[-1] if attached else None
        return result, self.calls, trace and trace.kinds, trace and trace.summary()


@pytest.fixture(scope="module")
def cluster():
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (else workers wait for all others)
    ray.init(num_cpus=2, address="local", include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def workers(cluster):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = [Worker.remote(str(inprocess.ROOT), rank, 2, port) for rank in range(2)]
    yield made
    for worker in made:
        ray.kill(worker)


def attach(workers, **changes):
    raylight.attach_to_workers({"workers": workers}, Settings.of(**changes))


@pytest.mark.parametrize("cfg", [3.0])
def test_two_workers_do_what_one_process_does(workers, cfg):
    """The same steps, the same picture; on a forecast step no worker runs the network."""
    alone = beside(lambda: own("euler"), cfg=cfg, steps=STEPS, target="model output")
    plain = ray.get([worker.sample.remote(cfg) for worker in workers], timeout=120)
    attach(workers)
    found = ray.get([worker.sample.remote(cfg) for worker in workers], timeout=120)
    for (result, calls, kinds, summary), (full, all_calls, _, _) in zip(found, plain, strict=True):
        assert kinds == alone.trace.kinds and "model output" not in summary
        assert calls == kinds.count("c") < all_calls == STEPS
        assert torch.allclose(full, alone.plain, atol=1e-4) and torch.allclose(result, alone.result, atol=1e-3)
    assert torch.equal(found[0][0], found[1][0])


def test_a_rank_that_differs_stops_forecasts_everywhere_at_the_same_step(workers):
    attach(workers)
    ray.get(workers[1].differ.remote(5))
    found = ray.get([worker.sample.remote(3.0) for worker in workers], timeout=120)
    kinds = [kinds for _, _, kinds, _ in found]
    assert kinds[0] == kinds[1] and "f" in kinds[0][:5] and kinds[0][5:] == "c" * (STEPS - 5)
    assert all("the workers disagreed" in summary for _, _, _, summary in found)
    assert torch.equal(found[0][0], found[1][0])


def test_a_worker_that_dies_in_mid_run_is_an_error_and_no_wait(workers):
    attach(workers)
    ray.get(workers[1].fail_at.remote(3))
    with pytest.raises(Exception, match=r"(?i)died|closed|did not answer|reset|peer"):
        ray.get([worker.sample.remote(3.0) for worker in workers], timeout=150)


def test_a_worker_that_is_gone_is_said(workers):
    ray.kill(workers[1])
    with pytest.raises(RuntimeError, match=r"a worker is gone .*restart ComfyUI"):
        attach(workers)


@pytest.mark.parametrize("actors", [None, {}, {"workers": []}, {"workers": [object()]}])
def test_what_are_no_workers_is_said(actors):
    with pytest.raises(ValueError, match="connect a loader of Raylight"):
        raylight.attach_to_workers(actors, Settings.of())


def test_ray_is_imported_only_when_the_node_runs():
    code = "from demo import inprocess; inprocess.boot(); import sys; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=inprocess.ROOT, check=True)
