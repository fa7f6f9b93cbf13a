"""Hypothesis profiles, one thread, and seeded generators for the tests of n2n.nn."""

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

# The same examples in every run; HYPOTHESIS_PROFILE=thorough draws new and more ones.
settings.register_profile("n2n", deadline=None, derandomize=True, max_examples=200)
settings.register_profile("thorough", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "n2n"))


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Tensors of some hundred values: handing them to threads costs more than all the work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20)
