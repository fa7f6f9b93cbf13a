"""What n2n raises. Every message is one line: what was expected, what was found, what to do.

N2NError                        anything n2n refuses or fails at      exit code 3
├── InvalidValue (ValueError)   an argument, file or folder that      exit code 2
│   │                           cannot be used as given
│   ├── ShapeError              a tensor or array of another shape
│   ├── ImageError              an image file that cannot be used
│   ├── PairSetError            a pair set that cannot be used
│   ├── ModelFileError          a model file that cannot be used
│   └── RunConflict             a run directory of another set or configuration
├── InvalidType (TypeError)     an argument of the wrong type         exit code 2
└── JobFailed (RuntimeError)    work that had begun and could not     exit code 3
    │                           go on; what was finished is kept
    ├── Diverged                a loss that is not finite
    ├── StorageError            a disk that is full, a store that does not answer
    ├── PeerLost                another process of the same training is gone
    └── Interrupted             stopped by the user

The exit code is what a command of `jobs` ends with when the error reaches it.
"""

__all__ = [
    "Diverged",
    "ImageError",
    "Interrupted",
    "InvalidType",
    "InvalidValue",
    "JobFailed",
    "ModelFileError",
    "N2NError",
    "PairSetError",
    "PeerLost",
    "RunConflict",
    "ShapeError",
    "StorageError",
    "is_out_of_memory",
]


class N2NError(Exception):
    """Anything that n2n refuses or fails at."""

    exit_code = 3


class InvalidValue(N2NError, ValueError):
    """An argument, file or folder that cannot be used as given; nothing was done."""

    exit_code = 2


class ShapeError(InvalidValue):
    """A tensor or array whose shape does not fit."""


class ImageError(InvalidValue):
    """An image file that cannot be read or written as asked."""


class PairSetError(InvalidValue):
    """A pair set, or what it should be made of, that cannot be used."""


class ModelFileError(InvalidValue):
    """A model file that cannot be used."""


class RunConflict(InvalidValue):
    """A run directory that belongs to another pair set or configuration."""


class InvalidType(N2NError, TypeError):
    """An argument of the wrong type."""

    exit_code = 2


class JobFailed(N2NError, RuntimeError):
    """Work that had begun and could not go on; what was finished is kept."""


class Diverged(JobFailed):
    """The loss is not finite; the last good checkpoint is kept."""


class StorageError(JobFailed):
    """A disk that is full or an object store that does not answer; what was finished is kept."""


class PeerLost(JobFailed):
    """Another process that trains the same network does not answer; the checkpoint is kept."""


class Interrupted(JobFailed):
    """Stopped by the user; what was finished is kept."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, also torch's, which is a RuntimeError on the CPU."""
    told = ("can't allocate memory", "out of memory")  # on the CPU, on a GPU
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in told)
    )
