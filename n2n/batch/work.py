"""What one process does: a model, loaded once, and files through it, each ending in an outcome."""

import errno
import math
import os
import time
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from n2n.batch.items import Item, Outcome
from n2n.batch.scratch import local_scratch
from n2n.checkpoint import load_model
from n2n.denoiser import IMAGES, Denoiser, Result
from n2n.device import choose_device, set_threads, use_precision
from n2n.errors import ImageError, ModelFileError, N2NError, StorageError, is_out_of_memory
from n2n.files import digest_of
from n2n.images import ImageFile, Raster, format_of, open_image, write_image
from n2n.options import Options
from n2n.parts import denoise_part
from n2n.shipped import locate
from n2n.storage import LocalFolder, is_uri, open_storage

__all__ = ["FULL_DISK", "Worker", "WorkerConfig", "full_disk"]

FULL_DISK = {errno.ENOSPC, errno.EDQUOT}
OWN_RANGE = (
    "black and white of floats outside of [0, 1] are the image's own extremes; --value-range sets "
    "them"
)
SMALL = 1 << 16  # pixels, and bytes, of images that go through the network together


@dataclass(frozen=True)
class WorkerConfig:
    """All that a worker needs to know; small, and can be pickled.

    source, destination: the roots of the items' names, paths or URIs. work: the folder, on the
    file system of local outputs, for what is being written; None: a scratch folder of the
    worker's own, for outputs that go to an object store.
    """

    model: str | None  # a file, run, URI or shipped model; None: the default
    source: str
    destination: str
    work: str | None = None
    options: Options = field(default_factory=Options)
    device: str = "cpu"
    precision: str = "fp32"
    threads: int | None = None
    max_memory: int | None = None
    batch_size: int | None = None  # of small images; more than 1 changes the rounding of floats


class Worker:
    """Built once in each process: loads the model, then takes any number of bunches.

    ModelFileError and InvalidValue for a model, device or precision that cannot be used.
    """

    def __init__(self, config: WorkerConfig) -> None:
        self.config = config
        self._warnings: list[str] = []  # not yet said in the notes of an outcome
        self._inputs = open_storage(config.source)
        self._outputs = open_storage(config.destination)
        self._stack = ExitStack()
        self._local = isinstance(self._outputs, LocalFolder)
        own = config.work is None or not isinstance(self._inputs, LocalFolder)
        self._scratch = self._stack.enter_context(local_scratch()) if own else Path()
        self._work = Path(config.work) if config.work is not None else self._scratch
        self.threads = set_threads(config.threads)
        self.device = choose_device(config.device)
        self._denoiser = self._load()
        self._reading = Path()
        self._ready: dict[Item, Result] = {}  # of images that went through the network together
        self._rooms: set[str] = set()  # output folders that are there

    def run(self, items: Sequence[Item]) -> Iterator[Outcome]:
        """Each item's outcome, as soon as its output is in place."""
        size = self.config.batch_size or 1
        for start in range(0, len(items), size):
            group = items[start : start + size]
            self._ready = self._together(group) if len(group) > 1 else {}
            for item in group:
                outcome = self._run(item)
                yield outcome
                if outcome.state == "stopped":
                    return

    def execute(self, bunches: Iterable[Sequence[Item]]) -> Generator[Outcome, None, None]:
        """All bunches, one after the other: what `Batch.run` takes."""
        for bunch in bunches:
            yield from self.run(bunch)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *error: object) -> None:
        """Remove the scratch folder."""
        self._stack.close()

    def _load(self) -> Denoiser:
        config = self.config
        dtype = use_precision(config.precision, self.device)
        with ExitStack() as stack:
            path = local_model(config.model, stack)
            network, _ = load_model(path)
            self._digest = digest_of(path)
        if network.channels not in (1, 3):
            raise ModelFileError(
                f"{config.model}: a model for grey (1 channel) or colour (3) expected, "
                f"found {network.channels}; use another one"
            )
        network.to(self.device).compute_in(dtype)
        self._channels = network.channels
        return Denoiser(
            network,
            options=config.options,
            device=self.device,
            max_memory=config.max_memory,
            batch_size=config.batch_size,
            warn=self._warnings.append,
            scratch=self._work,
        )

    def _run(self, item: Item) -> Outcome:
        started = time.perf_counter()
        try:
            outcome = self._denoise(item)
        except StorageError as error:
            return Outcome(item, "stopped", str(error))
        except N2NError as error:
            outcome = Outcome(item, "failed", self._reason(error))
        except OSError as error:
            shown = self._outputs.shown(item.destination)
            if error.errno in FULL_DISK:
                return Outcome(
                    item, "stopped", full_disk(shown if self._local else str(self._work))
                )
            outcome = Outcome(item, "failed", f"{shown}: cannot be written: {_line(error)}")
        except Exception as error:
            outcome = Outcome(item, "failed", explain(error))
        notes = (*outcome.notes, *self._warnings)
        self._warnings.clear()
        return replace(outcome, seconds=time.perf_counter() - started, notes=notes)

    def _denoise(self, item: Item) -> Outcome:
        with ExitStack() as stack:
            source, digest = self._fetch(item, stack)
            if digest == item.digest:
                there = self._outputs.find(item.destination)
                size = there.size if there else None
                return Outcome(item, "skipped", digest=digest, output_size=size)
            ending = os.path.splitext(item.destination)[1]
            made = self._work / f"{os.getpid()}-{item.number}{ending}"
            stack.callback(made.unlink, missing_ok=True)
            denoise = self._denoise_part if item.kind == "part" else self._denoise_image
            outcome = denoise(item, source, made)
            size = made.stat().st_size
            self._put(item, made)
        return replace(outcome, digest=digest, output_size=size)

    def _fetch(self, item: Item, stack: ExitStack) -> tuple[Path, str]:
        """A local file with the input, for the time of the stack, and its digest."""
        try:
            source = stack.enter_context(self._inputs.fetch(item.source, self._scratch))
            self._reading = source
            return source, digest_of(source)
        except OSError as error:
            if error.errno in FULL_DISK:
                raise StorageError(full_disk(str(self._scratch))) from error
            raise ImageError(f"cannot be read: {_line(error)}") from error

    def _denoise_image(self, item: Item, source: Path, made: Path) -> Outcome:
        """One file into another, page by page."""
        seen = Seen()
        with open_image(source) as file:
            ready = self._ready.pop(item, None)
            results = self._results(file) if ready is None else (ready,)
            write_image(made, file, map(seen.add, results), format=format_of(made))
        notes = seen.notes(self._channels)
        return Outcome(
            item, "done", pixels=seen.pixels, drift=seen.drift, sigma=seen.sigma, notes=notes
        )

    def _denoise_part(self, item: Item, source: Path, made: Path) -> Outcome:
        """A part of a pair set, which gets the column output."""
        result = denoise_part(self._denoiser, source, made, model=self._digest)
        scores = result.as_dict()
        return Outcome(item, "done", pixels=result.pixels, drift=result.drift / 255, scores=scores)

    def _results(self, file: ImageFile) -> Iterator[Result]:
        most = int(IMAGES / 2 * self._denoiser.max_memory)  # bytes of a page that is held whole
        return (self._denoiser.run(page.raster(max_bytes=most)) for page in file.pages)

    def _together(self, items: Sequence[Item]) -> dict[Item, Result]:
        """Results of those small images that can go through the network at once.

        What cannot, or fails, is left to be done alone, where it is found out why.
        """
        rasters: dict[Item, NDArray[Any]] = {}
        for item in items:
            if item.kind == "image" and item.size <= SMALL and item.digest is None:
                with suppress(N2NError, OSError):
                    rasters |= self._read_small(item)
        try:
            results = self._denoiser.run_many(list(rasters.values()))
        except (N2NError, MemoryError, RuntimeError):
            return {}
        return dict(zip(rasters, results, strict=True))

    def _read_small(self, item: Item) -> dict[Item, NDArray[Any]]:
        """The pixels (H, W, C) of a small image of one page; nothing of others."""
        fetched = self._inputs.fetch(item.source, self._scratch)
        with fetched as path, open_image(path) as file:
            small = math.prod(file.pages[0].shape[:2]) <= SMALL and len(file.pages) == 1
            return {item: np.asarray(file.pages[0].raster())} if small else {}

    def _put(self, item: Item, made: Path) -> None:
        folder = item.destination.rpartition("/")[0]
        if isinstance(self._outputs, LocalFolder) and folder not in self._rooms:
            (self._outputs.path / folder).mkdir(parents=True, exist_ok=True)
            self._rooms.add(folder)
        self._outputs.put(made, item.destination)

    def _reason(self, error: N2NError) -> str:
        """Without the name of the local file; the input's is said beside it."""
        return " ".join(str(error).removeprefix(f"{self._reading}: ").split())


def local_model(model: str | None, stack: ExitStack) -> Path:
    """A model's local file, as `n2n.shipped.locate`; a copy for the time of the stack if it lies
    in an object store.
    """
    if model is None or not is_uri(model):
        return locate(model)
    folder, _, name = model.partition("?")[0].rpartition("/")
    query = model.partition("?")[2]
    scratch = stack.enter_context(local_scratch())
    store = open_storage(f"{folder}?{query}" if query else folder)
    try:
        return Path(stack.enter_context(store.fetch(name, scratch)))
    except OSError as error:
        raise ModelFileError(f"{model}: cannot be read: {_line(error)}") from error


def full_disk(place: str) -> str:
    """What to say when there is no room for a file."""
    return f"the disk is full: {place}; make space, then run the same command again"


def explain(error: Exception) -> str:
    """Why an image failed, for errors that are not about the image itself."""
    if is_out_of_memory(error):
        return "not enough memory for an image of this size; close other programs"
    return f"a fault of n2n's own ({type(error).__name__}: {_line(error)}); please report it"


class Seen:
    """What the results of an image's pages told."""

    def __init__(self) -> None:
        self.pixels = 0
        self.drift = 0.0  # the largest page's, in parts of the range of values
        self.sigma: float | None = None  # the noisiest page's
        self._channels: set[int] = set()
        self._own_range = False

    def add(self, result: Result) -> Raster:
        """Take a page's result; returns its pixels (H, W, C)."""
        pixels = cast(Raster, result.pixels)
        height, width, channels = pixels.shape
        self.pixels += height * width
        self._channels.add(channels)
        if result.sigma is not None:
            self.sigma = max(result.sigma, self.sigma or 0.0)
        self._own_range |= result.range_origin == "image"
        black, white = result.value_range
        self.drift = max(self.drift, result.drift / (white - black), key=abs)
        return pixels

    def notes(self, channels: int) -> tuple[str, ...]:
        """For a model of so many channels."""
        return notes_of(self._channels, channels) + ((OWN_RANGE,) if self._own_range else ())


def notes_of(found: Collection[int], channels: int) -> tuple[str, ...]:
    """What a user may want to know of images of such channels in a model of so many."""
    if channels == 3 and 1 in found:
        return ("grey goes through the colour model as three equal channels",)
    if channels == 1 and 3 in found:
        return ("colour goes through the grey model channel by channel",)
    return ()


def _line(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())
