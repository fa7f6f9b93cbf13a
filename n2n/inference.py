"""Pieces of work on a network, no larger than memory holds: halved and tried again when it ends.

Legend: N images, C channels, H rows, W columns.
"""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf

import torch
from torch import Tensor

from n2n.errors import InvalidType, ShapeError, is_out_of_memory
from n2n.models import Network
from n2n.tiles import Grid, Tile

__all__ = ["MAX_PIXELS", "MAX_PIXELS_GPU", "Runner", "denoise", "inference", "require_channels"]

Work = Callable[[slice, Tile], None]


# By measurement on two cores: as fast as any size from 2^16 to 2^18 and up to twice as fast as
# 2^20, since what the layers keep stays in the caches. A GPU wants more at once: not yet measured.
MAX_PIXELS = 1 << 17
MAX_PIXELS_GPU = 1 << 22


class Runner:
    """A network in inference mode, and how many pixels may enter it at once.

    max_pixels: halved for good whenever memory runs out; `warn` is told the first time.
    tta: the mean over the eight flips and turns of the input.
    """

    def __init__(
        self,
        network: Network,
        *,
        max_pixels: int,
        tta: bool = False,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        self.network = network
        self.max_pixels = max_pixels
        self.tta = tta
        self._warn = warn

    def grid(self, height: int, width: int) -> Grid:
        return Grid(self.network, height, width, symmetric=self.tta)

    def cover(
        self,
        grid: Grid,
        images: int,
        channels: int,
        work: Work,
        *,
        most: int | None = None,
        side: int | None = None,
    ) -> None:
        """Call `work` for pieces, some images and a tile, that cover all pixels of all images.

        A piece whose work runs out of memory is halved and done again, so `work` must leave
        nothing behind until it cannot fail. most: images in a piece; side: of its tiles. When
        the smallest piece does not fit, the error passes: MemoryError, or torch's RuntimeError.
        """
        times = channels if self.network.channels == 1 else 1  # channel by channel
        tiles = grid.tiles(self.max_pixels // times) if side is None else grid.tiles_of(side)
        largest = times * max(tile.input_pixels for tile in tiles)
        at_once = max(1, min(self.max_pixels // largest, most or images))
        pieces = [
            (slice(start, min(start + at_once, images)), tile)
            for start in range(0, images, at_once)
            for tile in tiles
        ]
        pieces.reverse()
        limit = inf
        while pieces:
            part, tile = pieces.pop()
            pixels = times * (part.stop - part.start) * tile.input_pixels
            halves = _halve(grid, part, tile)
            if pixels > limit and len(halves) > 1:  # planned before memory ran out
                pieces.extend(reversed(halves))
                continue
            error = _attempt(work, part, tile)
            if error is None:
                continue
            if len(halves) == 1:
                raise error
            pieces.extend(reversed(halves))
            limit = pixels / 2
            self._back_off(pixels)

    def apply(self, x: Tensor) -> Tensor:
        """float (N, C, h, w) → the same, for any fitting C, within [0, 1]."""
        if not self.tta:
            return self._through(x).clamp(0, 1)
        total = torch.zeros_like(x)
        for turns in range(4):
            for flip in (False, True):
                y = torch.rot90(x.flip(3) if flip else x, turns, (2, 3)).contiguous()
                y = torch.rot90(self._through(y), -turns, (2, 3))
                total.add_(y.flip(3) if flip else y)
        return total.div_(8).clamp_(0, 1)

    def _through(self, x: Tensor) -> Tensor:
        network = self.network
        if x.shape[1] == network.channels:
            return network(x)
        if network.channels == 1:
            return network(x.flatten(0, 1)[:, None]).view(x.shape)
        return network(x.repeat(1, network.channels, 1, 1)).mean(1, keepdim=True)

    def _back_off(self, pixels: int) -> None:
        self.max_pixels = max(1, pixels // 2)
        self.network.release()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()  # not yet run on a GPU
        if self._warn is not None:
            self._warn(
                f"memory ran out with {pixels:,} pixels in the network at once; "
                f"going on with {self.max_pixels:,}, and fewer if need be"
            )
            self._warn = None


def _halve(grid: Grid, images: slice, tile: Tile) -> list[tuple[slice, Tile]]:
    """Fewer images; of one image, smaller tiles; the piece itself where it is the smallest."""
    middle = (images.start + images.stop) // 2
    if middle > images.start:
        return [(slice(images.start, middle), tile), (slice(middle, images.stop), tile)]
    return [(images, half) for half in grid.halve(tile)]


def _attempt(work: Work, images: slice, tile: Tile) -> BaseException | None:
    """The error of memory that ran out, freed of all that its frames still hold."""
    try:
        work(images, tile)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)
        return error.with_traceback(None)
    return None


def denoise(
    network: Network,
    image: Tensor,
    *,
    tile: int | None = None,
    max_pixels: int = MAX_PIXELS,
    device: torch.device | str | None = None,
    tta: bool = False,
) -> Tensor:
    """Denoise a float tensor (N, C, H, W) in [0, 1]; returns a new one of the same shape and range.

    Any H and W from 1 up: the image is continued by reflection to the network's multiple. At most
    `max_pixels` pixels enter the network at once, or one tile of the smallest size if that is
    more; `tile` asks for output tiles of that side instead. Tiled and whole results agree to
    float rounding. A network of one channel takes colour channel by channel; grey enters a
    colour network as equal channels and the mean of them comes out.

    device: where the network is (`network.to(device)`); the result stays where the image is.
    tta: the mean over the image's eight flips and turns.
    `ShapeError` for another shape or channels that do not fit, `InvalidType` for integers,
    `InvalidValue` for a tile or max_pixels below 1.
    """
    if not image.is_floating_point():
        raise InvalidType(f"image: a float tensor in [0, 1] expected, got {image.dtype}")
    if image.dim() != 4 or 0 in image.shape[1:]:
        raise ShapeError(f"image: shape (N, C, H, W) expected, got {tuple(image.shape)}")
    require_channels(network, image.shape[1], "image")
    runner = Runner(network, max_pixels=max_pixels, tta=tta)
    grid = runner.grid(*image.shape[2:])
    result = torch.empty_like(image)

    def work(images: slice, tile: Tile) -> None:
        x = _read(image[images], grid, tile).to(device).float().contiguous()
        y = runner.apply(x)[..., tile.rows.keep, tile.columns.keep]
        place = result[images][..., tile.rows.write, tile.columns.write]
        place.copy_(y[..., : place.shape[2], : place.shape[3]])  # narrower than y at the end

    with inference(network):
        runner.cover(grid, len(image), image.shape[1], work, side=tile)
    return result


def _read(image: Tensor, grid: Grid, tile: Tile) -> Tensor:
    """The tile's part of the padded images (N, C, H, W)."""
    rows, columns = tile.rows.read, tile.columns.read
    if rows.stop <= image.shape[2] and columns.stop <= image.shape[3]:
        return image[:, :, rows, columns]
    down, across = grid.rows.indices(rows), grid.columns.indices(columns)
    return image[:, :, torch.from_numpy(down)[:, None], torch.from_numpy(across)]


@contextmanager
def inference(network: Network) -> Iterator[None]:
    """Inference mode, and then the mode that it was in."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


def require_channels(network: Network, channels: int, name: str) -> None:
    """ShapeError unless the network takes images of so many channels, by replication if need be."""
    if channels != network.channels and 1 not in (channels, network.channels):
        raise ShapeError(
            f"{name}: 1 or {network.channels} channels expected by the network, got {channels}"
        )
