"""`lineside dead-letters list|show|replay`."""

from __future__ import annotations

import getpass
import json
import re
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import click

from app.cli.moments import Moment
from app.cli.output import progress_bars, table
from app.client import Client, Json
from pipeline.errors import RefusedError
from schemas.subject import rfc3339_ms

_URL = click.option("--url", help="Where Lineside listens; the local one by default.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_POLL_S = 0.3
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def _an_id(context: click.Context, option: click.Parameter, value: Any) -> Any:
    """Refuse what is no id before a server is asked."""
    del context
    for text in value if isinstance(value, tuple) else (value,):
        if text is not None and not _ID.fullmatch(text):
            is_letter = option.name != "resume"
            raise click.BadParameter(
                f"{text!r} is no id of a {'dead letter' if is_letter else 'replay'}; one looks "
                "like 1b4e28ba-2fa1-5d2e-883f-0016d3cca427. "
                + (
                    "To list them: lineside dead-letters list"
                    if is_letter
                    else "It stands in the history of its letters: lineside dead-letters show ID"
                )
            )
    return value


def _as_sent(context: click.Context, option: click.Parameter, value: Any) -> Any:
    """Return a time as HTTP takes it."""
    del context, option
    return rfc3339_ms(value) if isinstance(value, datetime) else value


def _filters(command: Any) -> Any:
    """Options that choose letters, the same for `list` and `replay`."""
    for name, text, kind in reversed(
        (
            ("--stage", "Buried by this stage: embed, anomaly, llm, record, bank-build.", str),
            ("--reason", "Buried for this reason, such as object_missing.", str),
            ("--product", "About this product.", str),
            (
                "--since",
                "Buried since then: 2026-11-26T08:00 at the site, or 30m, 8h, 7d ago.",
                Moment(),
            ),
            ("--until", "Buried before then.", Moment()),
        )
    ):
        command = click.option(name, help=text, type=kind, callback=_as_sent)(command)
    return command


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "cli"


@click.group("dead-letters")
def dead_letters() -> None:
    """Events that a stage could not settle: find them, read them, put them back."""


@dead_letters.command("list")
@_filters
@click.option(
    "--state",
    type=click.Choice(["open", "replayed", "resolved", "all"]),
    default="open",
    show_default=True,
)
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True)
@_URL
@_JSON
def list_letters(
    *, state: str, limit: int, url: str | None, as_json: bool, **chosen: str | None
) -> None:
    """List dead letters, newest first, and count them by stage and reason."""
    query = {**chosen, "state": None if state == "all" else state}
    letters: list[Json] = []
    with Client(url) as client:
        page = client.get("/v1/dead-letters", **query, limit=min(limit, 500))
        counts = page["counts"]
        letters += page["dead_letters"]
        while page["next_cursor"] and len(letters) < limit:
            cursor = page["next_cursor"]
            page = client.get("/v1/dead-letters", **query, limit=500, cursor=cursor)
            letters += page["dead_letters"]
    if as_json:
        told = {"dead_letters": letters[:limit], "counts": counts}
        click.echo(json.dumps(told, ensure_ascii=False))
        return
    names = ("event_id", "state", "stage", "reason", "product", "part_id", "occurred_at")
    table(
        ["id", "state", "stage", "reason", "product", "part", "buried"],
        [[letter[name] for name in names] for letter in letters[:limit]],
    )
    totals = ["stage", "reason", "open", "replayed", "resolved"]
    table(totals, [[row[name] for name in totals] for row in counts])


@dead_letters.command("show")
@click.argument("letter_id", callback=_an_id)
@click.option(
    "--save-image", type=click.Path(dir_okay=False, path_type=Path), help="Write its picture there."
)
@_URL
@_JSON
def show(*, letter_id: str, save_image: Path | None, url: str | None, as_json: bool) -> None:
    """Print all that is known of a dead letter: record, failure, history."""
    with Client(url) as client:
        letter = client.get(f"/v1/dead-letters/{letter_id}")
        if save_image is not None:
            if letter["content_url"] is None:
                raise RefusedError(404, "no_picture", "the record names no image that is known")
            save_image.write_bytes(client.download(letter["content_url"]))
    if as_json:
        click.echo(json.dumps(letter, ensure_ascii=False))
        return
    _print_letter(letter)


def _print_letter(letter: Json) -> None:
    record = letter["record"]
    place = f"{record['topic']}[{record['partition']}] at {record['offset']}"
    for name, value in (
        ("id", letter["event_id"]),
        ("state", letter["state"]),
        ("stage", letter["stage"]),
        ("reason", f"{letter['reason']}: {letter['error_text']}"),
        ("error", letter["error_class"]),
        ("tried", f"{letter['attempts']} times, last {letter['last_attempt_at']}"),
        ("record", place),
        ("key", record["key"]["data"]),
        ("trace", letter["trace_id"]),
        ("product", letter["product"]),
        ("image", letter["image_id"]),
        ("picture", letter["content_url"]),
        ("came from", letter["replay_of"]),
        ("returned as", letter["returned_as"]),
        ("resolved by", letter["resolved_by"]),
    ):
        if value is not None:
            click.echo(f"{name:>12}  {value}")
    for header in record["headers"]:
        click.echo(f"{'header':>12}  {header['name']}: {header['data']}")
    click.echo(f"{'value':>12}  {json.dumps(record['value'], ensure_ascii=False)}")
    for replay in letter["history"]["replays"]:
        click.echo(
            f"{'replay':>12}  {replay['requested_at']} by {replay['requested_by']}: "
            f"{replay['outcome']} ({replay['replay_id']})"
        )


@dead_letters.command("replay")
@click.argument("letter_ids", nargs=-1, callback=_an_id)
@click.option("--all", "take_all", is_flag=True, help="All open letters.")
@_filters
@click.option("--rate", type=click.FloatRange(0.01, 1000), default=10.0, show_default=True,
              help="Most letters a second.")  # fmt: skip
@click.option("--again", is_flag=True, help="Also those put back before without an answer yet.")
@click.option("--note", help="Why, for the record that stays.")
@click.option("--by", default=_user,
              help="Who, for the record that stays; you by default.")  # fmt: skip
@click.option("--wait-s", type=click.FloatRange(0), default=60.0, show_default=True,
              help="Seconds to wait for answers at the end.")  # fmt: skip
@click.option("--resume", metavar="REPLAY", callback=_an_id,
              help="Go on with a replay that was stopped.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only count.")
@click.option("--yes", is_flag=True, help="Ask nothing.")
@_URL
@_JSON
def replay(
    *,
    letter_ids: tuple[str, ...],
    take_all: bool,
    rate: float,
    again: bool,
    note: str | None,
    by: str,
    wait_s: float,
    resume: str | None,
    dry_run: bool,
    yes: bool,
    url: str | None,
    as_json: bool,
    **chosen: str | None,
) -> int:
    """Put letters back onto their topics at a limited rate; what is still poison comes back once.

    Ends with 1 when a letter came back or was passed over.
    """
    body: Json = {"rate_per_s": rate, "again": again, "reason": note, "requested_by": by}
    with Client(url) as client:
        if resume is not None:
            client.call("POST", f"/v1/dead-letter-replays/{resume}/resume", json={"by": by})
            return _follow(client, resume, by=by, wait_s=wait_s, as_json=as_json)
        body |= _choice(letter_ids, chosen, take_all=take_all)
        counted = client.call("POST", "/v1/dead-letters/replay", json={**body, "dry_run": True})
        if dry_run:
            click.echo(json.dumps(counted) if as_json else _counted(counted))
            return 0
        if not yes and counted["letters"]:
            _confirm(f"{_counted(counted)}. Put them back at {rate:g} a second?")
        # Sent again after a broken connection, it is the same replay.
        headers = {"Idempotency-Key": str(uuid4())}
        begun = client.call("POST", "/v1/dead-letters/replay", json=body, headers=headers)
        return _follow(client, begun["replay_id"], by=by, wait_s=wait_s, as_json=as_json)


def _choice(letter_ids: tuple[str, ...], chosen: Json, *, take_all: bool) -> Json:
    """Return `ids` or `filter` as HTTP takes them."""
    named = {name: value for name, value in chosen.items() if value is not None}
    if letter_ids and not named and not take_all:
        return {"ids": list(letter_ids)}
    if not letter_ids and (take_all or named):
        return {"filter": named}
    raise click.UsageError("name ids, or filters, or --all")


def _counted(counted: Json) -> str:
    left_out = "".join(f", {number} left out: {why}" for why, number in counted["left_out"].items())
    return f"{counted['letters']} dead letters{left_out}"


def _confirm(question: str) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Add --yes: nobody is here to ask")
    click.confirm(question, abort=True)


def _follow(client: Client, replay_id: str, *, by: str, wait_s: float, as_json: bool) -> int:
    """Show progress until every letter is put back and answered, or `wait_s` passed."""
    path = f"/v1/dead-letter-replays/{replay_id}"
    try:
        with progress_bars(quiet=as_json) as bars:
            state = _watch(client, path, bars.reporter("dead letters"), wait_s)
    except KeyboardInterrupt:
        state = client.call("POST", f"{path}/stop", json={"by": by})
        click.echo(
            f"stopped with {state['left']} of {state['letters']} letters left; go on with: "
            f"lineside dead-letters replay --resume {replay_id}",
            err=True,
        )
        raise
    click.echo(json.dumps(state, ensure_ascii=False) if as_json else _outcome(state))
    return 1 if state["returned"] or state["passed_over"] or state["left"] else 0


def _watch(client: Client, path: str, tell: Any, wait_s: float) -> Json:
    deadline = None
    while True:
        state = client.get(path)
        if state["state"] == "running":
            tell("put back", state["letters"] - state["left"], state["letters"])
        else:
            answered = state["put_back"] - state["waiting"]
            tell("answered", answered, state["put_back"])
            deadline = deadline or time.monotonic() + wait_s
            if not state["waiting"] or time.monotonic() > deadline:
                return state
        time.sleep(_POLL_S)


def _outcome(state: Json) -> str:
    passed = ", ".join(f"{number} {why}" for why, number in state["passed_over_for"].items())
    return (
        f"{state['put_back']} of {state['letters']} letters put back: "
        f"{state['resolved']} resolved, {state['returned']} came back, "
        f"{state['waiting']} not answered yet, {state['passed_over']} passed over"
        f"{f' ({passed})' if passed else ''}; replay {state['replay_id']}"
    )


COMMANDS = {"dead-letters": dead_letters}
