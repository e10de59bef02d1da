"""The cache: what a request asks for, whether a recorded answer may serve it, and what the answer says about that."""
