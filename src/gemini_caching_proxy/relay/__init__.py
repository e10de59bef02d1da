"""The HTTP machinery: client connections, upstream connections, framing, limits and back-pressure."""
