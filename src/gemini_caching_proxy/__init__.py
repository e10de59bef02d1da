"""Gemini Caching Proxy: forward, stream and record every call to the Gemini API."""

__version__ = "0.1.0"
