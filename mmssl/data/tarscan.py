"""Where the members of a tar file lie, found in one pass over its headers that survives damage."""

from __future__ import annotations

import os
import tarfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

BLOCK = 512
CHUNK = 1 << 20
DIGITS = 19  # of the longest size in an extension header
BAD_SIZE = -1
REGULAR = (b"0", b"\0", b"7")
Record = tuple[str, list[tuple[str, int, int]]]  # key, then field, offset and size of each of its files


@dataclass
class Member:
    """One file inside a tar: its name, where its bytes start, how many there are, and whether a gap comes before."""

    name: str
    offset: int
    size: int
    after_gap: bool = False


@dataclass
class Scan:
    """What a pass found: whole members in order, (what, why) for every loss, and whether a gap ends the file."""

    members: list[Member] = field(default_factory=list)
    lost: list[tuple[str, str]] = field(default_factory=list)
    gap_at_end: bool = False


def parse_header(block: bytes) -> tarfile.TarInfo | None:
    """The header in 512 bytes; None where there is none, its checksum does not hold or its size is below 0."""
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return None
    return header if header.size >= 0 else None


def scan(fd: int) -> Scan:
    """Walk a tar file. A header that cannot be read is skipped up to the next one that can. No paper: ours.

    Args:
        fd: open file descriptor.
    """
    found, size, at = Scan(), os.fstat(fd).st_size, 0
    long_name, long_size, gap, ended = None, None, False, False
    while at < size:
        header = parse_header(os.pread(fd, BLOCK, at))
        if header is None or long_size == BAD_SIZE:
            after = _next_header(fd, at, size)
            ended = _zeros(fd, at, after)
            if not ended:
                found.lost.append((f"bytes {at} to {after}", "no readable header"))
                gap = True
            at, long_name, long_size = after, None, None
            continue
        start = at + BLOCK
        length = header.size if long_size is None else long_size
        if start + length > size:
            found.lost.append((long_name or header.name, f"the shard ends {start + length - size} bytes too early"))
            gap = True
            break
        at = start + -(-length // BLOCK) * BLOCK
        if header.type in (b"L", b"x", b"g", b"K"):
            name, stated = _extension(header.type, os.pread(fd, min(length, CHUNK), start))
            long_name, long_size = name or long_name, stated if stated is not None else long_size
            continue
        if header.type in REGULAR:
            found.members.append(Member(long_name or header.name, start, length, gap))
            gap = False
        long_name, long_size = None, None
    if not ended and not gap:
        found.lost.append(("the end", "no end mark; the shard was cut off between two files"))
    found.gap_at_end = gap or not ended
    return found


def _next_header(fd: int, at: int, size: int) -> int:
    """Where the next readable header after `at` stands; the end of the file where there is none."""
    at += BLOCK
    while at < size:
        chunk = os.pread(fd, CHUNK, at)
        for i in range(0, len(chunk), BLOCK):
            if chunk[i + 257:i + 262] == b"ustar" and parse_header(chunk[i:i + BLOCK]) is not None:
                return at + i
        at += CHUNK
    return size


def _zeros(fd: int, start: int, end: int) -> bool:
    """Whether the bytes from `start` are the zeros that end a tar file."""
    if end != os.fstat(fd).st_size:
        return False
    while start < end:
        chunk = os.pread(fd, min(CHUNK, end - start), start)
        if chunk.count(0) != len(chunk):
            return False
        start += CHUNK
    return True


def _extension(kind: bytes, data: bytes) -> tuple[str | None, int | None]:
    """The name and the size that a GNU or POSIX extension header states for the member after it, or BAD_SIZE."""
    if kind == b"L":
        return data.rstrip(b"\0").decode("utf-8", "surrogateescape"), None
    if kind != b"x":
        return None, None
    name, size = None, None
    while data:
        digits, space, _ = data.partition(b" ")
        if not space or not digits.isdigit() or len(digits) > DIGITS or not len(digits) < int(digits) <= len(data):
            break
        key, _, value = data[len(digits) + 1:int(digits)].rstrip(b"\n").partition(b"=")
        name = value.decode("utf-8", "surrogateescape") if key == b"path" else name
        if key == b"size":
            size = int(value) if value.isdigit() and len(value) <= DIGITS else BAD_SIZE
        data = data[int(digits):]
    return name, size


def group(found: Scan, split_name: Callable[[str], tuple[str | None, str | None]]
          ) -> tuple[list[Record], list[tuple[str, str]]]:
    """Members grouped to records, and (what, why) for each loss. No paper: ours.

    A record beside a gap may lack a file: it counts as lost unless it has all fields that most records here have.

    Args:
        split_name: the name of a member as key and field; (None, None) for a member that belongs to no record.
    """
    records: list[Record] = []
    lost, doubtful = list(found.lost), set()
    for member in found.members:
        key, name = split_name(member.name)
        if key is None or member.name.startswith("__"):
            continue
        if member.after_gap and records:
            doubtful.add(len(records) - 1)
        if not records or records[-1][0] != key:
            records.append((key, []))
        if member.after_gap:
            doubtful.add(len(records) - 1)
        records[-1][1].append((name.lower(), member.offset, member.size))
    if found.gap_at_end and records:
        doubtful.add(len(records) - 1)
    usual = Counter(frozenset(name for name, _, _ in members) for _, members in records).most_common(1)
    for i in sorted(doubtful, reverse=True):
        if not usual[0][0] <= {name for name, _, _ in records[i][1]}:
            lost.append((records[i][0], "beside unreadable bytes, and not all its files are there"))
            del records[i]
    return records, lost
