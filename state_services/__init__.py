"""Adapters to state services: readers of the event stream with a state machine and a port to the outside."""
