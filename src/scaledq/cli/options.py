"""What the verbs share: a config's fields as options, and a table of two columns."""

import sys
from typing import TypeVar

import tyro
from tyro.conf import AvoidSubcommands

T = TypeVar("T")


def override(cfg: T, overrides: tuple[str, ...], *, prog: str) -> T:
    """The config with the fields that were given on the command line; exits on unknown ones."""
    return tyro.cli(type(cfg), default=cfg, args=overrides, config=(AvoidSubcommands,), prog=prog)


def refuse(overrides: tuple[str, ...], *, prog: str) -> None:
    if overrides:
        print(f"{prog}: unrecognized options {' '.join(overrides)}", file=sys.stderr)
        sys.exit(2)


def print_table(title: str, rows: dict[str, str]) -> None:
    width = max(len(name) for name in rows)
    print(f"{title}:")
    for name, text in rows.items():
        print(f"  {name:<{width}}  {text}")
