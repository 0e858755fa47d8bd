"""Run the test suite from a checkout: ``python test.py``; arguments go to pytest."""

import sys

import pytest

if __name__ == "__main__":
    raise SystemExit(pytest.main(sys.argv[1:]))
