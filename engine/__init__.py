"""The face of the engine: what gateway, adapters and benchmarks may import by name."""
