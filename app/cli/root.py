"""The commands by name; each one's file is imported when it is called."""

from __future__ import annotations

import errno
import importlib
import sys

import click

from app.cli import quiet_imports
from pipeline.errors import LinesideError

# command → (module, what --help says)
_COMMANDS = {
    "demo": ("app.cli.demo", "Everything on this machine, with sample data."),
    "up": ("app.cli.processes", "Every role on this machine; a role that dies is started again."),
    "worker": ("app.cli.processes", "One role: web, embed, anomaly, llm or record."),
    "broker": ("app.cli.processes", "The embedded Apache Kafka alone."),
    "status": ("app.cli.status", "Roles, processes, lag, what is held or away."),
    "doctor": ("app.cli.doctor", "One real round trip per dependency, and what to do."),
    "topics": ("app.cli.topics", "Topics: apply, list, reset-group."),
    "schemas": ("app.cli.schemas", "The contract as files."),
    "import": ("app.cli.importing", "A plant's data folder in one go."),
    "images": ("app.cli.images", "Send pictures."),
    "feed": ("app.cli.feed", "Results in the terminal, as they arrive."),
    "bank": ("app.cli.bank", "Memory banks: build, list, show, activate, rollback, calibrate."),
    "cases": ("app.cli.cases", "Past cases: import, list, search."),
    "manuals": ("app.cli.manuals", "Manuals: import, search, ask."),
    "dead-letters": ("app.cli.dead_letters", "What a stage could not settle: list, show, replay."),
    "outbox": ("app.cli.outbox", "Events that the broker refused: list, retry."),
    "replay": (
        "app.cli.replay",
        "A stretch of a topic through another version; diff, list, remove.",
    ),
    "bench": ("app.cli.bench", "The figures that the documents claim."),
}


class _LazyGroup(click.Group):
    """Lists commands without importing them: `lineside --help` needs no torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click calls it
        """Names in the order of the table."""
        return list(_COMMANDS)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002 - click calls it
        cmd_name: str,
    ) -> click.Command | None:
        """Import the file that holds a command."""
        entry = _COMMANDS.get(cmd_name)
        if entry is None:
            return None
        with quiet_imports():
            module = importlib.import_module(entry[0])
        command = module.COMMANDS[cmd_name]
        assert isinstance(command, click.Command)
        return command

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002 - click calls it
        formatter: click.HelpFormatter,
    ) -> None:
        """Write the table itself, so that no module is imported."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="lineside")
def root() -> None:
    """Visual inspection: an image becomes a verdict on the operator's screen."""


def run() -> None:
    """Run a command; a known error is one line and no traceback."""
    try:
        code = root.main(standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except KeyboardInterrupt:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except LinesideError as error:
        click.echo(f"lineside: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        where = f" ({error.filename})" if error.filename else ""
        click.echo(f"lineside: the disk is full{where}; make room and try again", err=True)
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)
