"""The command `linnet`, which is `python -m linnet` too."""

from linnet.process import prepare


def main() -> None:
    """Import the command line, which takes a moment, and run it."""
    prepare()
    from linnet.cli import main as run

    run()


if __name__ == "__main__":
    main()
