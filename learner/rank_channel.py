"""What rank 0 tells the other learner ranks between steps: bytes, such as a batch, keep waiting, or stop.

Owns one small collective on CPU tensors of the default group. It keeps the ranks in step: nobody enters a training step that another rank will not
enter, and no rank sits in a collective for longer than rank 0 waits for the queue, or for generators, in one go.
"""

import torch
import torch.distributed as dist

WAIT = -1
STOP = -2


class Stop:
    """Rank 0 ends the run: every rank leaves the loop after the same step."""


def tell(message: bytes | Stop | None) -> bytes | Stop | None:
    """Rank 0 gives a message (None: nothing yet), every rank gets it. Collective."""
    is_source = dist.get_rank() == 0
    header = torch.tensor([_header(message) if is_source else 0], dtype=torch.int64)
    dist.broadcast(header, src=0)
    size = int(header.item())
    if size < 0:
        return Stop() if size == STOP else None
    if is_source:
        assert isinstance(message, bytes)
        payload = torch.frombuffer(bytearray(message), dtype=torch.uint8)
    else:
        payload = torch.empty(size, dtype=torch.uint8)
    dist.broadcast(payload, src=0)
    return message if is_source else payload.numpy().tobytes()


def _header(message: bytes | Stop | None) -> int:
    if message is None:
        return WAIT
    if isinstance(message, Stop):
        return STOP
    assert message, "an empty message says nothing"
    return len(message)
