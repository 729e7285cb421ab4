"""A slow, obvious matcher: it sees all messages at once."""

from __future__ import annotations


def match_offline(references: list[int], stamps: list[int], tolerance: int, offset: int = 0) -> dict[int, int | None]:
    """For each reference stamp the stamp matched to it, one-to-one and monotone, or None."""
    references, free = sorted(set(references)), sorted(set(stamps))
    result: dict[int, int | None] = {}
    for i, reference in enumerate(references):
        target = reference + offset
        choices = []
        for stamp in free:
            distance = abs(stamp - target)
            rivals = [later + offset for later in references[i + 1 :]]
            claimed = any(abs(stamp - rival) < distance for rival in rivals)
            if distance <= tolerance and not claimed:
                choices.append((distance, stamp))
        best = min(choices, default=(0, None))[1]
        result[reference] = best
        if best is not None:
            free = [stamp for stamp in free if stamp > best]
    return result
