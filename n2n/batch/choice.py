"""Which files of a folder are taken, and what their outputs are called."""

import os
from dataclasses import dataclass
from fnmatch import fnmatchcase

from n2n.errors import InvalidValue
from n2n.images import FORMATS, SUFFIXES, output_suffix

__all__ = ["KNOWN", "Choice"]

KNOWN = ", ".join(SUFFIXES)


@dataclass(frozen=True)
class Choice:
    """Patterns for names, and what is done to them.

    A pattern without / is for the name of a file or of a folder above it, one with / for the path
    below the input folder. *, ? and [abc] are as in a shell; * stands for / too. InvalidValue for
    a suffix that is no part of a name, and for an unknown format.
    """

    include: tuple[str, ...] = ()  # none: all
    exclude: tuple[str, ...] = ()
    suffix: str = ""  # put before the ending
    format: str | None = None  # one of n2n.images.FORMATS: what outputs are converted to

    def __post_init__(self) -> None:
        if "/" in self.suffix or "\0" in self.suffix:
            raise InvalidValue(f"suffix: a part of a name expected, got {self.suffix!r}")
        if self.format is not None and self.format not in FORMATS:
            raise InvalidValue(f"a format of {', '.join(FORMATS)} expected, got {self.format!r}")

    def includes(self, path: str) -> bool:
        """Whether a file is wanted."""
        return not self.include or any(
            fnmatchcase(path, pattern)
            if "/" in pattern
            else any(fnmatchcase(part, pattern) for part in path.split("/"))
            for pattern in self.include
        )

    def excludes(self, path: str) -> bool:
        """Whether a file, or a folder with all that is in it, is not wanted."""
        name = path.rpartition("/")[2]
        return any(
            fnmatchcase(path if "/" in pattern else name, pattern) for pattern in self.exclude
        )

    def output(self, name: str) -> str:
        """The output's name for an input's; an ending that says the format already stays."""
        return os.path.splitext(name)[0] + self.suffix + output_suffix(name, self.format)
