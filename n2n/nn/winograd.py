"""Winograd's form of a 3x3 convolution of stride 1: a quarter of the multiplications.

The 4x4 outputs of a tile depend on 6x6 inputs. A polynomial of degree 5 is known by its values
at 6 points, so with three small matrices that evaluate and interpolate (Aᵀ 4x6, Bᵀ 6x6, G 6x3)

    U = G w Gᵀ      V = Bᵀ x B      y = Aᵀ (V ∘ U) A

where ∘ multiplies number by number: 36 products a tile and pair of channels instead of 144.
Summed over the channels, V ∘ U is 36 matrix products, and the backward pass is the same chain
read from right to left:

    dM = A dy Aᵀ      dU = Vᵀ ∘ dM      dw = Gᵀ dU G      dx = B (dM ∘ Uᵀ) Bᵀ

A tile is taken as a vector, and Bᵀ x B as one 36x36 matrix, Bᵀ ⊗ Bᵀ, times it. Lavin & Gray 2016.

The matrices, and the points that they stand for, are in `n2n.nn.interpolation`.

N batch; C, G channels of image and grid; P, Q grid; S, T rows and columns of tiles; L tiles of a
block.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, empty

from n2n.nn.activation import Activation, apply, differentiate
from n2n.nn.arguments import Pair
from n2n.nn.geometry import Windows
from n2n.nn.interpolation import REACH, TILE, matrices
from n2n.nn.module import scratch
from n2n.nn.windows import Block, ChannelsLast, add_column_sums, as_views, blocks, gather, scatter

__all__ = ["Winograd"]

BLOCK_BYTES = 2 * 2**20  # of V, or of the products, at once: all of a block stays in the cache


@dataclass(frozen=True)
class Winograd(ChannelsLast):
    """As `Columns`, for kernels of 3x3, stride and dilation 1 and one group.

    image: (N, H, W, C), from `read_image`; grid: (N, P, Q, G), from `read_grid`.
    """

    windows: Windows

    def correlate(
        self,
        image: Tensor,
        size: Pair,
        weight: Tensor,
        bias: Tensor | None,
        activation: Activation | None = None,
    ) -> Tensor:
        """A · image + bias, (N, G, P, Q) with P, Q = `size`."""
        grid = _new((len(image), *size, len(weight)), weight)
        kernels = _transform_kernels(weight)
        for block in self._blocks(grid, weight):
            values = self._transform_image(image, size, block)
            self._products_to_grid(values, kernels, grid, block, bias)
            apply(activation, _part_of(grid, block))
        return grid.permute(0, 3, 1, 2)

    def correlate_backward(
        self,
        image: Tensor,
        grad_grid: Tensor,
        weight: Tensor,
        size: Pair | None,
        grad_bias: Tensor | None = None,
        activation: Activation | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The gradients by the weights, (G, C, 3, 3), and by the image, (N, C, *size).

        size: None leaves the gradient by the image out.
        """
        grid_size = (grad_grid.shape[1], grad_grid.shape[2])
        kernels = _transform_kernels(weight)
        grad_kernels = _new(kernels.shape, weight).zero_()
        grad_image = None if size is None else _new(image.shape, weight)
        for block in self._blocks(grad_grid, weight):
            values = self._transform_image(image, grid_size, block)
            grad_products = self._transform_grid(grad_grid, block)
            add_column_sums(grad_bias, _part_of(grad_grid, block))
            grad_kernels.baddbmm_(grad_products.permute(1, 2, 0), values.transpose(0, 1))
            if grad_image is not None:
                self._products_to_image(grad_products, kernels, grad_image, grid_size, block)
                if _ends_images(block, grid_size):
                    differentiate(activation, grad_image[block.images], image[block.images])
        by_weight = _transform_kernels_back(grad_kernels)
        if grad_image is None:
            return by_weight, None
        return by_weight, grad_image.permute(0, 3, 1, 2)

    def spread(
        self,
        grid: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        size: Pair,
        activation: Activation | None = None,
    ) -> Tensor:
        """Aᵀ · grid + bias, (N, C, H, W) with H, W = `size`."""
        grid_size = (grid.shape[1], grid.shape[2])
        kernels = _transform_kernels(weight)
        image = _new((len(grid), *size, weight.shape[1]), weight)
        for block in self._blocks(grid, weight):
            products = self._transform_grid(grid, block)
            self._products_to_image(products, kernels, image, grid_size, block, bias)
            if _ends_images(block, grid_size):
                apply(activation, image[block.images])
        return image.permute(0, 3, 1, 2)

    def spread_backward(
        self,
        grad_image: Tensor,
        grid: Tensor,
        weight: Tensor,
        grad_bias: Tensor | None = None,
        activation: Activation | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The gradients by the weights, (G, C, 3, 3), and by the grid, (N, G, P, Q)."""
        add_column_sums(grad_bias, grad_image)
        size = (grid.shape[1], grid.shape[2])
        kernels = _transform_kernels(weight)
        grad_kernels = _new(kernels.shape, weight).zero_()
        grad_grid = _new(grid.shape, weight)
        for block in self._blocks(grid, weight):
            values = self._transform_image(grad_image, size, block)
            products = self._transform_grid(grid, block)
            grad_kernels.baddbmm_(products.permute(1, 2, 0), values.transpose(0, 1))
            self._products_to_grid(values, kernels, grad_grid, block, None)
            differentiate(activation, _part_of(grad_grid, block), _part_of(grid, block))
        return _transform_kernels_back(grad_kernels), grad_grid.permute(0, 3, 1, 2)

    # From tensors to transformed tiles, and back; all of a block

    def _transform_image(self, image: Tensor, size: Pair, block: Block) -> Tensor:
        """V = Bᵀ x B of overlapping 6x6 tiles, (L, 36, C)."""
        shape = (_length(block), REACH**2, image.shape[3])
        tiles = scratch().empty("tiles", shape, image)
        views = as_views(tiles.flatten(1)[None], self._tiles, _tiling(size), block)
        gather(image, self._tiles, _tiling(size), block, views)
        values = scratch().empty("values", shape, image)
        return values.baddbmm_(matrices(image).image.expand(tiles.shape[0], -1, -1), tiles, beta=0)

    def _products_to_image(
        self,
        products: Tensor,
        kernels: Tensor,
        image: Tensor,
        size: Pair,
        block: Block,
        bias: Tensor | None = None,
    ) -> None:
        """Add x = B (M ∘ Uᵀ) Bᵀ, the adjoint of `_transform_image` and the product, to `image`."""
        channels = image.shape[3]
        values = scratch().empty("tiles", (REACH**2, products.shape[0], channels), image)
        values.baddbmm_(products.transpose(0, 1), kernels, beta=0)
        tiles = scratch().empty("values", (products.shape[0], REACH**2, channels), image)
        back = matrices(image).image.t().expand(tiles.shape[0], -1, -1)
        tiles.baddbmm_(back, values.transpose(0, 1), beta=0)
        views = as_views(tiles.flatten(1)[None], self._tiles, _tiling(size), block)
        scatter(views, image, self._tiles, _tiling(size), block, bias)

    def _transform_grid(self, grid: Tensor, block: Block) -> Tensor:
        """M = A y Aᵀ, the adjoint of `_products_to_grid`'s second half, (L, 36, G)."""
        outputs, whole, part = self._grid_tiles(grid, block)
        if whole is not part:
            whole.zero_()[:, : part.shape[1], : part.shape[2]].copy_(part)
        outputs.copy_(_as_tiles(whole))
        products = scratch().empty("products", (_length(block), REACH**2, grid.shape[3]), grid)
        back = matrices(grid).grid.t().expand(products.shape[0], -1, -1)
        return products.baddbmm_(back, outputs.view(products.shape[0], TILE**2, -1), beta=0)

    def _products_to_grid(
        self, values: Tensor, kernels: Tensor, grid: Tensor, block: Block, bias: Tensor | None
    ) -> None:
        """Write y = Aᵀ (V ∘ U) A + bias to its place in `grid`."""
        channels = grid.shape[3]
        products = scratch().empty("products", (REACH**2, values.shape[0], channels), grid)
        products.baddbmm_(values.transpose(0, 1), kernels.transpose(1, 2), beta=0)
        outputs, whole, part = self._grid_tiles(grid, block)
        matrix = matrices(grid).grid.expand(values.shape[0], -1, -1)
        outputs.view(values.shape[0], TILE**2, -1).baddbmm_(
            matrix, products.transpose(0, 1), beta=0
        )
        if bias is not None:
            outputs.add_(bias)
        _as_tiles(whole).copy_(outputs)
        if whole is not part:
            part.copy_(whole[:, : part.shape[1], : part.shape[2]])

    def _grid_tiles(self, grid: Tensor, block: Block) -> tuple[Tensor, Tensor, Tensor]:
        """A buffer (n, s, T, 4, 4, G) for a block's tiles; then their part of the grid, filled up
        to whole tiles, (n, 4·s, 4·T, G), and that part itself. These are one if it needs no more.
        """
        part = _part_of(grid, block)
        rows, columns = block.rows.stop - block.rows.start, _tiling(grid.shape[1:3])[1]
        shape = (part.shape[0], rows, columns, TILE, TILE, grid.shape[3])
        outputs = scratch().empty("outputs", shape, grid)
        size = (TILE * rows, TILE * columns)
        if part.shape[1:3] == size:
            return outputs, part, part
        return outputs, scratch().empty("whole", (part.shape[0], *size, grid.shape[3]), grid), part

    # Sizes

    @property
    def _tiles(self) -> Windows:
        return replace(self.windows, kernel=(REACH, REACH), stride=(TILE, TILE))

    def _blocks(self, grid: Tensor, weight: Tensor) -> Iterator[Block]:
        size = _tiling(grid.shape[1:3])
        per_tile = REACH**2 * max(weight.shape[:2]) * grid.element_size()
        return blocks(len(grid), size, per_tile, BLOCK_BYTES)


def _length(block: Block) -> int:
    length: int = block.positions.stop - block.positions.start
    return length


def _part_of(grid: Tensor, block: Block) -> Tensor:
    """What a block of tiles has of (N, P, Q, G): (n, p, Q, G)."""
    return grid[block.images, TILE * block.rows.start : TILE * block.rows.stop]


def _ends_images(block: Block, size: Pair) -> bool:
    """Whether a block has the last tiles of its images."""
    return bool(block.rows.stop == _tiling(size)[0])


def _tiling(size: Sequence[int]) -> Pair:
    """How many tiles cover a grid, down and across."""
    return -(-size[0] // TILE), -(-size[1] // TILE)


def _as_tiles(whole: Tensor) -> Tensor:
    """(n, 4·s, 4·T, G) as a view (n, s, T, 4, 4, G)."""
    tiles: Tensor = whole.unflatten(1, (-1, TILE)).unflatten(3, (-1, TILE))
    return tiles.transpose(2, 3)


def _transform_kernels(weight: Tensor) -> Tensor:
    """U = G w Gᵀ, (36, G, C)."""
    kernels: Tensor = matrices(weight).kernel @ weight.flatten(2).flatten(0, 1).t()
    return kernels.view(-1, *weight.shape[:2])


def _transform_kernels_back(kernels: Tensor) -> Tensor:
    """w = Gᵀ U G, (G, C, 3, 3): the adjoint of `_transform_kernels`."""
    weight: Tensor = kernels.flatten(1).t() @ matrices(kernels).kernel
    return weight.view(*kernels.shape[1:], 3, 3)


def _new(shape: Sequence[int], like: Tensor) -> Tensor:
    return empty(shape, dtype=like.dtype, device=like.device)
