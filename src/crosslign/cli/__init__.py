"""The command line, one file a family of commands."""

from crosslign.cli.main import main

__all__ = ["main"]
