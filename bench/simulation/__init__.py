"""The seeded simulation: the real engine and door, taken step by step in one thread, beside a naive model of both."""
