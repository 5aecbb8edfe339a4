"""What the step does to rewards before they become advantages. Pure; no torch."""


def overlong_penalty(positions: int, limit: int, zone: int, weight: float) -> float:
    """DAPO's soft overlong punishment (2503.14476, equation 13), as what is added to a reward: 0 or less.

    0 up to limit - zone positions, then linearly down to -weight at the limit:

        -weight * min(1, max(0, (positions - (limit - zone)) / zone))

    Args:
        positions: how long the rollout is.
        limit: the request's max_tokens.
        zone: width of the zone below the limit; 0 is off.
        weight: what is taken off at the limit, 0 or more.
    """
    if zone == 0:
        return 0.0
    return -weight * min(1.0, max(0.0, (positions - (limit - zone)) / zone))
