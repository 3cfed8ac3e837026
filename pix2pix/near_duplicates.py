"""Nearly equal hashes among many, without comparing each with each."""

import numpy as np
from numpy.typing import NDArray

# Bits of 128 that may differ. Unrelated facades differ in 26 and more, unrelated maps in 36 and more; the
# same pair at another size and saved again as JPEG in 0 to 18, 97 of 100 in up to 15.
MOST_BITS = 16
# Hashes with a band in common that each is compared with; more only where thousands share one.
WINDOW = 64


def near_pairs(hashes: NDArray[np.uint64]) -> list[tuple[int, int, int]]:
    """Rows whose 128 bits differ in at most `MOST_BITS`.

    Equal rows are compared with the first of them alone. The others are sorted by each of eight bands of 16
    bits, and compared with their neighbours there: two rows that differ in up to 7 bits have a band in
    common (pigeonholes), nearly all that differ in 10 have, most that differ in 16. The time grows as the
    number of rows.

    Args:
        hashes: uint64 [rows, 2].

    Returns:
        First row, second row, bits that differ; in order of bits, then rows.
    """
    if len(hashes) < 2:
        return []
    # Of equal rows the first in order of the hashes is the first of all. 32 bits a number halve the memory.
    order = np.lexsort(hashes.T).astype(np.uint32)
    ordered = hashes[order]
    is_first = np.append(True, (ordered[1:] != ordered[:-1]).any(1))
    unique, first = ordered[is_first], order[is_first]
    origin = first[np.cumsum(is_first)[~is_first] - 1]
    found = {(int(a), int(b)): 0 for a, b in zip(origin, order[~is_first], strict=True)}
    del order, ordered, is_first, origin
    for band in unique.view(np.uint16).T:
        order = np.argsort(band, kind="stable").astype(np.uint32)
        for step in range(1, WINDOW + 1):
            left, right = order[:-step], order[step:]
            together = band[left] == band[right]
            if not together.any():
                break
            left, right = left[together], right[together]
            bits = sum(np.bitwise_count(half[left] ^ half[right]) for half in unique.T)
            near = bits <= MOST_BITS
            for a, b, differ in zip(first[left[near]], first[right[near]], bits[near], strict=True):
                found[int(min(a, b)), int(max(a, b))] = int(differ)
    return sorted(((a, b, differ) for (a, b), differ in found.items()), key=lambda row: (row[2], *row[:2]))
