"""`python -m compressctl`: the command line."""

from compressctl.cli.main import main

if __name__ == "__main__":
    main()
