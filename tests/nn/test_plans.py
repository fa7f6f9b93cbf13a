"""Pieces of windows at the border of an image: by hand, and by counting every tap."""

from hypothesis import given
from hypothesis import strategies as st

from n2n.nn.geometry import Windows
from n2n.nn.plans import Piece, by_position, by_tap

SEED = Windows.checked(3, 2, 1, 1)


def test_pieces_by_hand() -> None:
    """Four windows of three taps, two apart, from one before the image of eight on."""
    assert by_position(SEED, 0, 4, 8, axis=0) == [
        Piece(slice(0, 1), slice(1, 3), 0),
        Piece(slice(1, 4), slice(0, 3), 1),
    ]
    assert by_tap(SEED, 0, 4, 8, axis=0) == [
        Piece(slice(1, 4), slice(0, 1), 1),
        Piece(slice(0, 4), slice(1, 3), 0),
    ]
    assert by_tap(SEED, 2, 4, 8, axis=0) == [
        Piece(slice(0, 2), slice(0, 1), 3),
        Piece(slice(0, 2), slice(1, 3), 4),
    ]


def test_taps_that_tile_an_image_by_hand() -> None:
    assert SEED.tile(4, 8, axis=0) == range(1, 3)
    assert SEED.tile(4, 7, axis=0) == range(1, 3)
    assert len(SEED.tile(4, 9, axis=0)) == 0  # the last pixel lies under the first tap alone
    assert len(Windows.checked(2, 3, 0, 1).tile(3, 9, axis=0)) == 0  # gaps between windows
    assert len(Windows.checked(3, 2, 1, 2).tile(4, 8, axis=0)) == 0  # gaps between taps


sizes = st.integers(1, 7)


@given(sizes, sizes, st.integers(0, 7), sizes, st.integers(1, 12), st.data())
def test_every_tap_inside_is_in_one_piece(
    kernel: int, stride: int, padding: int, dilation: int, size: int, data: st.DataObject
) -> None:
    windows = Windows.checked(kernel, stride, padding, dilation)
    start = data.draw(st.integers(0, 6))
    stop = data.draw(st.integers(start, 12))
    inside = {
        (position - start, tap): row
        for position in range(start, stop)
        for tap in range(kernel)
        if 0 <= (row := position * stride - padding + tap * dilation) < size
    }
    for split in (by_position, by_tap):
        found = [
            ((position, tap), piece.first + i * stride + j * dilation)
            for piece in split(windows, start, stop, size, axis=1)
            for i, position in enumerate(range(piece.positions.start, piece.positions.stop))
            for j, tap in enumerate(range(piece.taps.start, piece.taps.stop))
        ]
        assert len(found) == len(inside)
        assert dict(found) == inside
    for piece in by_tap(windows, start, stop, size, axis=1):
        rows = [
            piece.first + i * stride + j * dilation
            for i in range(piece.positions.stop - piece.positions.start)
            for j in range(piece.taps.stop - piece.taps.start)
        ]
        assert len(set(rows)) == len(rows), "pixels that are added at once overlap"


@given(sizes, sizes, st.integers(0, 7), st.integers(1, 12))
def test_a_tile_lies_on_every_pixel_once(kernel: int, stride: int, padding: int, size: int) -> None:
    windows = Windows.checked(kernel, stride, padding, 1)
    grid = max(0, (size + 2 * padding - kernel) // stride + 1)
    taps = windows.tile(grid, size, axis=0)
    rows = [i * stride - padding + tap for i in range(grid) for tap in taps]
    if taps:
        assert sorted(row for row in rows if 0 <= row < size) == list(range(size))
