"""Run the command line from a checkout: ``python main.py real …``."""

from sae_analysis.main import main

if __name__ == "__main__":
    raise SystemExit(main())
