"""`python -m rd_hf`, the same as `rd-hf`."""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
