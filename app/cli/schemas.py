"""`lineside schemas export`: the contract as files."""

from __future__ import annotations

from pathlib import Path

import click

from app.contract_files import differing, write


@click.group("schemas")
def schemas() -> None:
    """The contract as files."""


@schemas.command("export")
@click.option("--check", is_flag=True, help="Change nothing; fail when a file is out of step.")
@click.option(
    "--to", "folder", type=click.Path(path_type=Path), default=Path("schemas"), show_default=True
)
def export(*, check: bool, folder: Path) -> int:
    """Write json/*.json and asyncapi.yaml from the code."""
    if check:
        names = differing(folder)
        for name in names:
            click.echo(f"{folder / name} is out of step: run lineside schemas export", err=True)
        return 1 if names else 0
    changed = write(folder)
    click.echo(f"{len(changed)} files written" if changed else "all files are in step")
    return 0


COMMANDS = {"schemas": schemas}
