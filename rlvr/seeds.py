"""Seeds: one run seed, many independent streams.

Owns the derivation; whoever draws at random names its stream. The same names give the same seed on every machine and in every version of Python.
"""

import hashlib


def derive_seed(run_seed: int, *names: str | int, bits: int = 63) -> int:
    """A seed in [0, 2**bits) for the stream `names` of a run. numpy's legacy seeding, which vLLM's engine does, takes 32 bits."""
    digest = hashlib.blake2b(repr((run_seed, *names)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> (64 - bits)
