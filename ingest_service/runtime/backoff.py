"""How long to wait before another try: exponential backoff with full jitter.

After "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015), its "full jitter" variant.
"""

import random

FIRST_DELAY_S = 0.05
MAX_DELAY_S = 5.0


def backoff_s(failures: int) -> float:
    """How long to wait after that many earlier failures: anything up to a bound that doubles each time."""
    return random.uniform(0, min(MAX_DELAY_S, FIRST_DELAY_S * 2 ** min(failures, 16)))
