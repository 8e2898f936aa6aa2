"""Durable subscriptions: named readers of the log that keep their place (engine/SUBSCRIPTIONS.md)."""
