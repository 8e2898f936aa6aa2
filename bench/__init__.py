"""Measurements of the engine and the gateway, each beside the bare limit of the machine."""
