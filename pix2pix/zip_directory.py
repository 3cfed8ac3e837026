"""The directory at a zip's end, counted without believing what is said of it.

zipfile makes an object of half a kilobyte for every entry before it says a word, and does not notice entries
that a damaged length has swallowed. The records are those of PKWARE's APPNOTE 6.3.10, 4.3.12 to 4.3.16.
"""

import mmap
import struct
from pathlib import Path

_ENTRY = b"PK\x01\x02"
_ENTRY_BYTES = 46
_END = b"PK\x05\x06"
_END_BYTES = 22
_MAX_COMMENT_BYTES = 2**16 - 1
_END64, _LOCATOR64 = b"PK\x06\x06", b"PK\x06\x07"
_END64_BYTES, _LOCATOR64_BYTES = 56, 20
# Stands for a number that is in the larger record.
_ELSEWHERE = 2**32 - 1


def count_entries(archive: Path, stop_after: int) -> tuple[int, int]:
    """Walk the directory, in the memory of one entry.

    Args:
        stop_after: entries at which to stop counting.

    Returns:
        The entries that are there, `stop_after` or fewer, and the lower 16 bits of how many are claimed.

    Raises:
        ValueError: there is no directory, or it is not where it is said to be.
    """
    with archive.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        end = content.rfind(_END, max(0, len(content) - _END_BYTES - _MAX_COMMENT_BYTES))
        if end < 0 or end + _END_BYTES > len(content):
            raise ValueError("no directory")
        claimed, size_bytes = struct.unpack_from("<H I", content, end + 10)
        locator = end - _LOCATOR64_BYTES
        if content[max(locator, 0) : max(locator, 0) + 4] == _LOCATOR64:
            end = locator - _END64_BYTES
            if end < 0 or content[end : end + 4] != _END64:
                raise ValueError("directory elsewhere")
            if size_bytes == _ELSEWHERE:
                (size_bytes,) = struct.unpack_from("<Q", content, end + 40)
        position, found = end - size_bytes, 0
        while found < stop_after and 0 <= position <= end - _ENTRY_BYTES:
            if content[position : position + 4] != _ENTRY:
                raise ValueError("entry without its mark")
            position += _ENTRY_BYTES + sum(struct.unpack_from("<HHH", content, position + 28))
            found += 1
        if found < stop_after and position != end:
            raise ValueError("directory of another length")
    return found, claimed
