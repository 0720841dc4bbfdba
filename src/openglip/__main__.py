"""`python -m openglip` is the command `openglip`."""

from openglip.cli.main import main

if __name__ == "__main__":
    main()
