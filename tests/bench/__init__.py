"""Benchmarks against torch.nn: what `n2n bench` measures, and programs that compare training."""
