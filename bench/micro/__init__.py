"""Micro-benchmarks of the native parts, as Python calls them, for pytest-benchmark; `gonets bench micro` runs them."""
