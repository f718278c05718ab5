"""The bits of a version: what may be published, their digest, and the flat run of values that travels.

Pure functions; called by both ends of a broadcast and by the version log. Knows torch and nothing else.
"""

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence

import torch

WEIGHT_DTYPE = torch.bfloat16


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """BLAKE2b over names, shapes and bf16 bits, whatever the order of the mapping. Tensors: bf16, in host memory."""
    whole = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        check_tensor(name, tensor)
        bits = tensor.detach().contiguous().reshape(-1).view(torch.int16).numpy()
        whole.update(repr((name, tuple(tensor.shape))).encode())
        whole.update(hashlib.blake2b(bits.data, digest_size=16).digest())
    return whole.hexdigest()


def check_tensor(name: str, tensor: torch.Tensor) -> None:
    """Raise ValueError unless `tensor` can be published."""
    if tensor.dtype is not WEIGHT_DTYPE or tensor.device.type != "cpu":
        raise ValueError(f"{name}: published weights are bfloat16 in host memory, got {tensor.dtype} on {tensor.device}")


def chunks(tensors: Sequence[torch.Tensor], chunk_values: int) -> Iterator[torch.Tensor]:
    """The flat run of all values in pieces of `chunk_values`, the last one shorter; one buffer is used again and again."""
    buffer = torch.empty(min(chunk_values, sum(tensor.numel() for tensor in tensors)), dtype=WEIGHT_DTYPE)
    filled = 0
    for tensor in tensors:
        flat = tensor.detach().reshape(-1)
        start = 0
        while start < flat.numel():
            count = min(buffer.numel() - filled, flat.numel() - start)
            buffer[filled : filled + count] = flat[start : start + count]
            filled, start = filled + count, start + count
            if filled == buffer.numel():
                yield buffer
                filled = 0
    if filled:
        yield buffer[:filled]


def views(flat: torch.Tensor, names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """The tensors that lie one after the other in `flat`, without a copy."""
    sizes = [torch.Size(shape).numel() for shape in shapes]
    starts = itertools.accumulate(sizes, initial=0)
    return {name: flat[start : start + size].view(shape) for name, shape, size, start in zip(names, shapes, sizes, starts, strict=False)}
