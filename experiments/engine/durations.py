"""Durations in words."""


def duration(seconds: float) -> str:
    """Seconds as people say them: 40 s, 12 min, 1.6 h, 1,301 h."""
    hours = seconds / 3600
    if seconds < 60:
        return f"{seconds:.0f} s"
    if hours < 1.5:
        return f"{seconds / 60:.0f} min"
    return f"{hours:.1f} h" if hours < 100 else f"{hours:,.0f} h"
