"""``python -m snngan``: the same as the command ``snngan``."""

from snngan.cli import main

if __name__ == "__main__":
    main()
