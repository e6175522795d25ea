"""What all samplers agree on about a turn: where it ends, and the seed of its random numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from tspo.protocol import ends_turn
from tspo.rollout.codec import Codec
from tspo.rollout.sampler import Finish


def turn_end(token_ids: Sequence[int], max_tokens: int, codec: Codec) -> Finish | None:
    """Why a turn ends with the last of `token_ids`, or None where it goes on; to be asked after every token."""
    token = token_ids[-1]
    if token in codec.eos_token_ids:
        return "end"
    if token in codec.closing_token_ids and ends_turn(codec.decode(token_ids)):
        return "stop"
    return "length" if len(token_ids) >= max_tokens else None


def turn_seed(seed: str, turn: int) -> int:
    """31 bits, which every engine takes, for turn number `turn` of the episode of `seed`."""
    digest = hashlib.blake2b(f"{seed}/{turn}".encode(), digest_size=4).digest()
    return int.from_bytes(digest) >> 1
