"""`python -m paragone` is the command line."""

from paragone.cli import main

if __name__ == "__main__":
    main()
