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
    unique, first, group = np.unique(hashes, axis=0, return_index=True, return_inverse=True)
    origin = first[group.ravel()]
    equal = np.flatnonzero(origin != np.arange(len(hashes)))
    found = {(int(origin[row]), int(row)): 0 for row in equal}
    for band in np.ascontiguousarray(unique).view(np.uint16).T:
        order = np.argsort(band, kind="stable")
        for step in range(1, WINDOW + 1):
            left, right = order[:-step], order[step:]
            together = band[left] == band[right]
            if not together.any():
                break
            left, right = left[together], right[together]
            bits = np.bitwise_count(unique[left] ^ unique[right]).sum(1)
            for a, b, differ in zip(first[left], first[right], bits, strict=True):
                if differ <= MOST_BITS:
                    found[int(min(a, b)), int(max(a, b))] = int(differ)
    return sorted(((a, b, differ) for (a, b), differ in found.items()), key=lambda row: (row[2], *row[:2]))
