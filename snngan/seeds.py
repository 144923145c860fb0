"""Independent random streams, derived from the user's one seed."""

from __future__ import annotations

import hashlib


def seed_for(seed: int, purpose: str) -> int:
    """Return the seed of the stream for ``purpose``; streams of other purposes and other seeds are independent.

    Example:
        >>> seed_for(0, "noise") != seed_for(1, "noise") != seed_for(0, "order")
        True
    """
    digest = hashlib.blake2b(f"{seed} {purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1  # below 2**63, as torch's generators require
