"""Random streams, derived from what they are for: equal names give equal streams, whatever runs before or beside."""

from __future__ import annotations

from hashlib import sha256

import numpy as np

from dt.runs import Run

RESET_SEED_LIMIT = 2**31  # what every environment accepts


def stream(*names: str | int) -> np.random.SeedSequence:
    """A `SeedSequence` from names; `stream("batches", "target", "hopper", 0)` for example."""
    text = "/".join(str(name) for name in names)
    return np.random.SeedSequence(int.from_bytes(sha256(text.encode()).digest()))


def run_stream(purpose: str, run: Run) -> np.random.SeedSequence:
    """A stream of one run, shared with every arm it is compared with.

    All arms of a (target, seed), scratch among them, share batch order, fresh weights, dropout and start states; a
    pre-training has streams of its own, so that it is not the scratch run of the same environment over again.
    """
    return stream(purpose, "source" if run.kind == "pretrain" else "target", run.environment, run.seed)


def integer(sequence: np.random.SeedSequence) -> int:
    """A 63-bit seed for generators that take one integer."""
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)


def reset_seeds(sequence: np.random.SeedSequence, count: int) -> list[int]:
    """`count` seeds for `env.reset`; more of them begin with the same."""
    return [int(state) for state in sequence.generate_state(count) % RESET_SEED_LIMIT]
