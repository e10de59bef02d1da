"""Makes `factories` and `fakes`, which live beside this file, importable from every folder of tests."""
