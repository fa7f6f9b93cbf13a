"""What stays in the driver, though Ray Tune pickles all that it is given, to resume from.

A sweep is resumed from its own directory, and Tune's file is thrown away.
"""

__all__ = ["Local"]


class Local:
    """Is left out of a pickle, with all that it holds."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return object, ()
