"""`python -m gemini_caching_proxy`: the same as `gemini-proxy`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
