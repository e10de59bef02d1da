"""Stores: where exchanges live. `base` has the contract, one module each for what keeps it."""
