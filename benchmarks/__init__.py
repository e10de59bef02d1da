"""One command that measures the proxy beside its yardsticks: `python -m benchmarks`.

What it starts lives in a temporary folder, talks on 127.0.0.1 alone, and is gone when it returns. Nothing here is part
of the installed program.
"""
