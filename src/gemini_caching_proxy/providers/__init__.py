"""Providers: what a dialect of LLM API means. `base` has the contract, one module each for a dialect."""
