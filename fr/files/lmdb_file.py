"""The entries of an LMDB file: key, offset and size of each value, read without LMDB.

LMDB maps a file into memory and trusts its content: a damaged file, or one that shrinks during a run, crashes the
process with a signal. Here pages are read and checked, and a value is a slice of the file.

Data version 1, of LMDB 0.9 on machines of 64 bits, little-endian (its `libraries/liblmdb/mdb.c`). The file is pages of
one size; each begins with its number (uint64), two unused bytes, flags, and two offsets (uint16 each). Pages 0
and 1 are the meta pages, of which the one with the higher transaction counts. A branch or leaf page goes on with the
offsets of its nodes: lower 16 and upper 16 bits of a number, flags, size of the key (uint16 each), key, value. Of a
branch the number, with the flags as bits 32 to 47, is that of a page; of a leaf it is the size of the value. A large
value is in pages of its own, one after the other behind a single header, and the node has the first one's number.
"""

import os
import struct
from collections.abc import Iterator

_HEADER = struct.Struct("<QHHHH")
_NODE = struct.Struct("<HHHH")
_NUMBER = struct.Struct("<Q")
# Magic number, version, two words; page size and 44 bytes about the list of free pages; of the entries three words,
# pages of each kind, number of entries, root page; last page, transaction.
_META = struct.Struct("<II16xI44x8x24xQQQQ")
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_BRANCH, _LEAF, _OTHER_KINDS = 0x01, 0x02, 0x20 | 0x40
_LARGE = 0x01  # flag of a node
_EMPTY = 2**64 - 1  # in place of a root


class Damaged(Exception):
    """The bytes aren't an LMDB file whose entries can be read."""


def entries(descriptor: int) -> Iterator[tuple[bytes, int, int]]:
    """Key, offset and size [bytes] of each value of an open file, in LMDB's order; Damaged."""
    page_size, last, count, root = _newest_meta(descriptor)
    if os.fstat(descriptor).st_size < (last + 1) * page_size:
        raise Damaged(f"cut short, it should have {(last + 1) * page_size:,} bytes; copy it again")
    pages, found = ([] if root == _EMPTY else [root]), 0
    for _ in range(last + 1):  # each page is visited once at most, so more iterations would mean a cycle
        if not pages:
            break
        page = _page(descriptor, pages.pop(), last, page_size)
        nodes = list(_nodes(page))
        if page[10] & _BRANCH:
            pages += [low | high << 16 | flags << 32 for low, high, flags, _ in reversed([node[1:] for node in nodes])]
            if len(pages) > last:
                raise Damaged("damaged: more pages in its branches than in the file")
            continue
        for place, low, high, flags, key_size in nodes:
            found += 1
            yield _entry(page, place, low | high << 16, flags, key_size, page_size, last)
    if pages or found != count:
        raise Damaged(f"damaged: {found:,} entries, and its header says {count:,}")


def _newest_meta(descriptor: int) -> tuple[int, int, int, int]:
    """Size of a page, number of the last, number of entries, number of the root page."""
    first = os.pread(descriptor, _HEADER.size + _META.size, 0)
    metas = [first]
    if len(first) == _HEADER.size + _META.size:
        metas.append(os.pread(descriptor, len(first), _META.unpack_from(first, _HEADER.size)[2]))
    fitting = []
    for page in metas:
        if len(page) < _HEADER.size + _META.size:
            continue
        magic, version, page_size, count, root, last, transaction = _META.unpack_from(page, _HEADER.size)
        if magic != _MAGIC:
            continue
        if version != _VERSION:
            raise Damaged(f"data version {version}, where LMDB 0.9 writes {_VERSION}; write it again with LMDB 0.9")
        if 256 <= page_size <= 1 << 16:
            fitting.append((transaction, (page_size, last, count, root)))
    if not fitting:
        raise Damaged("not an LMDB file")
    return max(fitting)[1]


def _page(descriptor: int, number: int, last: int, page_size: int) -> bytes:
    page = os.pread(descriptor, page_size, number * page_size) if number <= last else b""
    if len(page) < page_size or _NUMBER.unpack_from(page)[0] != number:
        raise Damaged(f"damaged: no page {number:,}")
    if not page[10] & (_BRANCH | _LEAF) or page[10] & _OTHER_KINDS:
        raise Damaged(f"damaged, or written with several values a key: page {number:,}")
    return page


def _nodes(page: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """Offset in the page and header of each node."""
    lower = _HEADER.unpack_from(page)[3]
    if not _HEADER.size <= lower <= len(page):
        raise Damaged("damaged: a page with no room for its nodes")
    for (place,) in struct.iter_unpack("<H", page[_HEADER.size : lower - lower % 2]):
        if not _HEADER.size <= place <= len(page) - _NODE.size:
            raise Damaged("damaged: a node outside its page")
        yield place, *_NODE.unpack_from(page, place)


def _entry(
    page: bytes, place: int, size: int, flags: int, key_size: int, page_size: int, last: int
) -> tuple[bytes, int, int]:
    begin = place + _NODE.size + key_size
    key, number = page[place + _NODE.size : begin], _NUMBER.unpack_from(page)[0]
    if flags & ~_LARGE:
        raise Damaged(f"the entry {key!r} isn't a value but a database")
    if flags & _LARGE:
        first = _NUMBER.unpack_from(page, begin)[0] if begin + _NUMBER.size <= page_size else last
        offset, end = first * page_size + _HEADER.size, (last + 1) * page_size
    else:
        offset, end = number * page_size + begin, (number + 1) * page_size
    if offset + size > end:
        raise Damaged(f"damaged: the value of {key!r} lies outside the file")
    return key, offset, size
