"""`python -m fiefdom`: the command, where its script is not on the path."""

from fiefdom.cli.main import main

if __name__ == "__main__":
    main(prog_name="fiefdom")
