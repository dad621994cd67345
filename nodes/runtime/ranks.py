"""Several processes that each run a part of every call of the network (sequence- or CFG-parallel).

Inside such a call the processes exchange data, so that all of them must call the network, or none: one that forecast
while another computed would be waited for for ever. They therefore agree at every call, by one number.
"""

from datetime import timedelta
from typing import Any

import torch
import torch.distributed

TIMEOUT = timedelta(seconds=120)
"""How long a process is waited for."""


class RankError(RuntimeError):
    """A process did not answer; the message says what to do."""


class Ranks:
    """The processes of a run."""

    def __init__(self) -> None:
        self._group: Any = torch.distributed.new_group(backend="gloo", timeout=TIMEOUT)

    def close(self) -> None:
        """The run is over."""
        torch.distributed.destroy_process_group(self._group)

    def agree(self, forecast: bool) -> bool:
        """Whether all processes want the same for this call. Each of them asks, at every call.

        Args:
            forecast: what this one wants; else to compute.

        Raises:
            RankError: if one does not answer.
        """
        answer = torch.tensor([int(forecast), -int(forecast)])
        try:
            torch.distributed.all_reduce(answer, torch.distributed.ReduceOp.MIN, group=self._group)
        except RuntimeError as error:
            raise RankError(f"a worker did not answer ({error}); restart the workers") from None
        least, most = answer[0].item(), -answer[1].item()
        return bool(least == most)


def ranks() -> Ranks | None:
    """The processes that this one works with; None where it works alone."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return None
    return Ranks() if torch.distributed.get_world_size() > 1 else None
