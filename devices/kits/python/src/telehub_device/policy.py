"""When to come back, by how the last attempt ended. Pure but for the random numbers handed in."""

FIRST = 1.0
"""Span of the first pause in seconds: a restart of the hub goes almost unnoticed."""
LONGEST = 60.0
"""Longest ordinary pause: a hub that was away for hours is found again within a minute."""
FAULT_FIRST = 60.0
FAULT_LONGEST = 900.0
"""After an end that speaks of a fault of the device: the same bytes will hardly do better soon."""
REFUSED = 3600.0
"""After an answer that a person has to mend: unknown device, wrong token."""
RETRY_AFTER_LONGEST = 3600.0
"""A wish of the hub beyond this is more likely a mistake."""

STOP = None
"""In place of a pause: do not come back by yourself."""


def _span(first, longest, failures):
    # 2**20 is far above every quotient, and keeps the float finite.
    return min(first * 2 ** min(failures, 20), longest)


def backoff(failures, rng):
    """Exponential with jitter: from the upper half of a span that doubles."""
    return _span(FIRST, LONGEST, failures) * rng.uniform(0.5, 1.0)


def after_close(code, failures, rng):
    """The pause after a close code; `None` is the end of a connection without one."""
    pause = backoff(failures, rng)
    if code == 4002:
        return STOP
    if code == 4001:
        return rng.uniform(60.0, 75.0)
    if code in (1001, 1009, 1013):
        # Grows only when it happens again and again.
        return max(rng.uniform(1.0, 5.0), pause if failures > 2 else 0.0)
    if code in (1002, 1003, 1007, 1008, 4003):
        return _span(FAULT_FIRST, FAULT_LONGEST, failures) * rng.uniform(1.0, 1.25)
    return pause


def after_refusal(status, retry_after, failures, rng):
    """The pause after an HTTP answer in place of the upgrade."""
    if retry_after is not None:
        wish = min(max(retry_after, 0.0), RETRY_AFTER_LONGEST)
        return max(wish * rng.uniform(1.0, 1.1), backoff(failures, rng))
    if status == 429 or not 400 <= status < 500:
        return backoff(failures, rng)
    return REFUSED * rng.uniform(1.0, 1.25)
