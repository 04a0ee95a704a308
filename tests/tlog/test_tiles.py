"""Tiles and bundles are where tlog-tiles says, hold what it says, and a wrong file is named."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_async.tlog.failures import Malformed, TilesDamaged
from audit_async.tlog.merkle import inclusion_proof, leaf_hash, tree_root, verify_inclusion
from audit_async.tlog.tiles import Tile, TileReader, decode_bundle, read_tile, tile_width
from tests.tlog.trees import encode_bundle, mth, partial_tiles, reader_of, records


def published(leaves: list[bytes]) -> dict[str, bytes]:
    """Return the files of a log with these leaves, from the definition of a tile in tlog-tiles."""
    read, size, files, level = reader_of(leaves), len(leaves), {}, 0
    while count := size >> (8 * level):
        for number in range(-(-count // 256)):
            width = min(256, count - number * 256)
            hashes = [read(8 * level, number * 256 + at) for at in range(width)]
            files[Tile(level, number, width).path] = b"".join(hashes)
        level += 1
    for number in range(-(-size // 256)):
        entries = leaves[number * 256 : (number + 1) * 256]
        files[Tile(None, number, len(entries)).path] = encode_bundle(entries)
    return files


def test_paths_of_the_specification() -> None:
    """Index 1234067 is `x001/x234/067`, and the tiles of a tree of 70,000 leaves are those that it lists."""
    assert Tile(0, 1234067).path == "tile/0/x001/x234/067"
    assert Tile(None, 273, 112).path == "tile/entries/273.p/112"
    assert Tile(1, 0).path == "tile/1/000"
    assert set(partial_tiles(70_000)) == {Tile(None, 273, 112), Tile(0, 273, 112), Tile(1, 1, 17), Tile(2, 0, 1)}
    assert set(partial_tiles(256)) == {Tile(1, 0, 1)}
    assert tile_width(0, 272, 70_000) == 256
    assert tile_width(0, 274, 70_000) == 0


@settings(deadline=None)  # a busy machine breaks no promise
@given(st.none() | st.integers(0, 63), st.integers(0, 10**12), st.integers(1, 256))
def test_every_path_names_one_tile(level: int | None, number: int, width: int) -> None:
    """A path can be read back, whatever tile it is of."""
    tile = Tile(level, number, width)
    assert Tile.parse(tile.path) == tile


@settings(deadline=None)  # a busy machine breaks no promise
@given(
    st.one_of(
        st.text(max_size=40),
        st.from_regex(r"tile/(entries|[0-9]{1,3})/(x?[0-9]{1,4}/){0,3}x?[0-9]{2,4}(\.p/[0-9]{1,3})?", fullmatch=True),
    )
)
def test_every_tile_has_one_path(text: str) -> None:
    """No other spelling is taken for a tile's path, so two names never mean one file."""
    try:
        tile = Tile.parse(text)
    except Malformed:
        return
    assert tile.path == text


@pytest.mark.parametrize(
    "wrong",
    ["tile/0/x000/001", "tile/0/1", "tile/00/001", "tile/64/001", "tile/0/001.p/256", "tile/0/001.p/0", "tile/0/x001",
     "tile/0/001.p/05", "tile/-1/001", "tile/0/\u0660\u0660\u0661", "tile/data/001", "tile/0/001\n"],
)  # fmt: skip
def test_wrong_paths(wrong: str) -> None:
    """Paths that look right and are not are refused."""
    with pytest.raises(Malformed):
        Tile.parse(wrong)


@settings(deadline=None)  # a busy machine breaks no promise
@given(st.lists(st.binary(max_size=300), max_size=20), st.data())
def test_bundles(entries: list[bytes], data: st.DataObject) -> None:
    """A bundle gives back its entries, and one that is cut off anywhere inside an entry is refused."""
    bundle = encode_bundle(entries)
    assert decode_bundle(bundle, path="p") == entries
    edges = {len(encode_bundle(entries[:count])) for count in range(len(entries) + 1)}
    cut = data.draw(st.integers(0, len(bundle)))
    if cut in edges:
        assert decode_bundle(bundle[:cut], path="p") == entries[: sorted(edges).index(cut)]
    else:
        with pytest.raises(TilesDamaged, match=r"p: entry .* cut off"):
            decode_bundle(bundle[:cut], path="p")


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 511, 512, 600])
def test_proofs_from_tiles(size: int) -> None:
    """Root and inclusion proofs come out of the published files alone."""
    leaves = records(size)
    reader = TileReader(size, published(leaves).get)
    root = mth(leaves)
    assert tree_root(size, reader) == root
    for index in {0, size // 2, size - 1}:
        verify_inclusion(index, size, leaf_hash(leaves[index]), root, inclusion_proof(index, size, reader))
        assert reader.bundle(index // 256)[index % 256] == leaves[index]


def test_a_full_tile_stands_for_its_partial_ones() -> None:
    """A log may delete partial tiles once the full one is there; a tree of an older size is still read."""
    leaves = records(300)
    files = published(leaves)
    reader = TileReader(200, files.get)
    assert tree_root(200, reader) == mth(leaves[:200])
    assert reader.bundle(0) == leaves[:200]


def test_damaged_tiles_are_named() -> None:
    """A file that is missing, too short or too long is an error with its path."""
    leaves = records(300)
    for change in (lambda content: content[:-1], lambda content: content + b"x" * 32, lambda _: None):
        files = published(leaves)
        for tile in (Tile(0, 1, 44), Tile(None, 1, 44)):
            content = change(files[tile.path])
            if content is None:
                del files[tile.path]
            else:
                files[tile.path] = content
        reader = TileReader(300, files.get)
        with pytest.raises(TilesDamaged, match=r"tile/0/001\.p/44"):
            tree_root(300, reader)
        with pytest.raises(TilesDamaged, match=r"tile/entries/001\.p/44"):
            reader.bundle(1)


def test_tiles_that_do_not_exist_are_a_programming_error() -> None:
    """An empty tile is never asked for, and neither is a subtree that the tree does not have."""
    with pytest.raises(ValueError, match="empty"):
        read_tile(Tile(0, 1, 0), lambda _: None)
    with pytest.raises(ValueError, match="no complete subtree"):
        TileReader(3, published(records(3)).get)(1, 1)
