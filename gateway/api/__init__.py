"""The backends' door: HTTP, server-sent events and a WebSocket over the ports of subscriptions (API.md)."""
