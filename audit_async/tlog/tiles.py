"""The tlog-tiles layout: which file holds which hashes, entry bundles, and a tree's hashes read from tiles.

Names and bytes only; who reads and writes the files is another room. Source: https://c2sp.org/tlog-tiles.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from audit_async.tlog.failures import Malformed, TilesDamaged
from audit_async.tlog.merkle import HASH_SIZE, complete_root, tree_root

#: Hashes in a full tile, entries in a full bundle; a tile spans this many levels of the tree.
TILE_WIDTH: Final = 256
TILE_HEIGHT: Final = 8
#: The level under which entry bundles are filed, next to the numbers of the levels of hashes.
ENTRIES: Final = "entries"

_PATH: Final = re.compile(r"tile/(entries|0|[1-9][0-9]?)/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?", re.ASCII)
_MOST_LEVELS: Final = 63


class Tile(NamedTuple):
    """A tile of hashes (`level` 0 to 63) or a bundle of entries (`level` None), full or partial."""

    level: int | None
    number: int
    width: int = TILE_WIDTH

    @property
    def path(self) -> str:
        """The file's path below the log's prefix: `tile/0/x001/x234/067.p/112`."""
        digits = f"{self.number:03d}"
        digits = digits.zfill(-(-len(digits) // 3) * 3)
        groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
        place = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
        partial = "" if self.width == TILE_WIDTH else f".p/{self.width}"
        return f"tile/{ENTRIES if self.level is None else self.level}/{place}{partial}"

    @classmethod
    def parse(cls, path: str) -> Tile:
        """Return the tile that has this path; raises `Malformed` for every other spelling."""
        match = _PATH.fullmatch(path)
        if match is not None:
            level = None if match[1] == ENTRIES else int(match[1])
            number = int(match[2].replace("x", "").replace("/", ""))
            tile = cls(level, number, int(match[3]) if match[3] else TILE_WIDTH)
            # Each tile has one path: no `x000/001`, and no `.p/256`.
            if tile.path == path and (level is None or level <= _MOST_LEVELS):
                return tile
        raise Malformed("tile path", f"{path[:200]!a} is not a path of tlog-tiles")


def tile_width(level: int | None, number: int, size: int) -> int:
    """Return how many hashes, or entries, this tile has in a tree of `size` leaves: 0 to 256."""
    return max(0, min(TILE_WIDTH, (size >> (TILE_HEIGHT * (level or 0))) - number * TILE_WIDTH))


# -- entry bundles ------------------------------------------------------------------------------------------------


def decode_bundle(bundle: bytes, *, path: str) -> list[bytes]:
    """Return the entries of a bundle; raises `TilesDamaged`, which names `path`, if it is cut off."""
    entries: list[bytes] = []
    at = 0
    while at < len(bundle):
        begin = at + 2
        at = begin + int.from_bytes(bundle[at:begin], "big")
        if begin > len(bundle) or at > len(bundle):
            raise TilesDamaged(path, f"entry {len(entries)} of the bundle is cut off")
        entries.append(bundle[begin:at])
    return entries


# -- hashes from tiles --------------------------------------------------------------------------------------------

#: Takes a path below the log's prefix, returns the file's content, None if there is no such file.
FileReader = Callable[[str], bytes | None]


class TileReader:
    """A `HashReader` for a tree of one size, over the files of a published log.

    Keeps the tiles that it has read. Says nothing about who wrote them: what is computed from them must be compared
    with a signed root.
    """

    def __init__(self, size: int, read_file: FileReader) -> None:
        self.size: Final = size
        self._read_file: Final = read_file
        self._tiles: dict[tuple[int, int], list[bytes]] = {}

    def __call__(self, level: int, index: int) -> bytes:
        """Return the hash of a complete subtree; raises `TilesDamaged` if its tile is missing or too short."""
        tile_level, height = divmod(level, TILE_HEIGHT)
        first = index << height
        tile, at = divmod(first, TILE_WIDTH)
        hashes = self.hashes(tile_level, tile)[at : at + (1 << height)]
        if len(hashes) != 1 << height:
            raise ValueError(f"a tree of {self.size} leaves has no complete subtree ({level}, {index})")
        return complete_root(hashes)

    def hashes(self, level: int, number: int) -> list[bytes]:
        """Return the hashes of one tile, as many as it has at this size."""
        key = (level, number)
        known = self._tiles.get(key)
        if known is None:
            known = self._tiles[key] = _split_hashes(self.content(level, number))
        return known

    def content(self, level: int, number: int) -> bytes:
        """Return the bytes of one tile at this size, from the partial tile or from the full one that replaced it."""
        tile = Tile(level, number, tile_width(level, number, self.size))
        return read_tile(tile, self._read_file)

    def check(self, root: bytes) -> None:
        """Compare every tile that was read so far with the signed root of the tree; raises `TilesDamaged`.

        A tile at the right edge is part of the root, and every full one has its own root in the tile above it.
        """
        checked: set[tuple[int, int]] = set()
        if tree_root(self.size, self) != root:
            raise TilesDamaged("tile/", f"the tiles of size {self.size} do not lead to the root that was signed")
        while unchecked := self._tiles.keys() - checked:
            for level, number in unchecked:
                hashes = self._tiles[level, number]
                if len(hashes) == TILE_WIDTH and self(TILE_HEIGHT * (level + 1), number) != complete_root(hashes):
                    raise TilesDamaged(Tile(level, number).path, "its hashes do not lead to the one in the tile above")
            checked |= unchecked

    def bundle(self, number: int) -> list[bytes]:
        """Return the entries of one bundle, as many as it has at this size."""
        width = tile_width(None, number, self.size)
        tile = Tile(None, number, width)
        for candidate in _candidates(tile):
            content = self._read_file(candidate.path)
            if content is not None:
                entries = decode_bundle(content, path=candidate.path)
                if len(entries) != candidate.width:
                    raise TilesDamaged(candidate.path, f"{len(entries)} entries, and its place has {candidate.width}")
                return entries[:width]
        raise TilesDamaged(tile.path, "the file is missing, and the full one too")


def read_tile(tile: Tile, read_file: FileReader) -> bytes:
    """Return the bytes of a tile of hashes; raises `TilesDamaged` if it is missing or has another size.

    A log may delete a partial tile once the full one is there, so that one is tried next.
    """
    for candidate in _candidates(tile):
        content = read_file(candidate.path)
        if content is not None:
            if len(content) != candidate.width * HASH_SIZE:
                expected = candidate.width * HASH_SIZE
                raise TilesDamaged(candidate.path, f"{len(content)} bytes, and its place has {expected}")
            return content[: tile.width * HASH_SIZE]
    raise TilesDamaged(tile.path, "the file is missing, and the full one too")


def _candidates(tile: Tile) -> tuple[Tile, ...]:
    if not tile.width:
        raise ValueError(f"tile {tile.level}/{tile.number} is empty at this size, and empty tiles are not published")
    return (tile,) if tile.width == TILE_WIDTH else (tile, tile._replace(width=TILE_WIDTH))


def _split_hashes(content: bytes) -> list[bytes]:
    return [content[at : at + HASH_SIZE] for at in range(0, len(content), HASH_SIZE)]
