"""`lineside feed`: results in the terminal."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import click
import websockets

from app.client import default_url
from pipeline.errors import ConfigError

_RECONNECT_S = 1.0


@click.command("feed")
@click.option("--product", "products", multiple=True, help="Only these products.")
@click.option("--verdict", "verdicts", multiple=True, help="Only these verdicts.")
@click.option("--topic", "topics", multiple=True, help="Only these topics.")
@click.option("--position", default="latest", show_default=True, help="latest, earliest or one.")
@click.option("--url", help="Where Lineside listens; the local one by default.")
@click.option("--json", "as_json", is_flag=True, help="Every message as one line of JSON.")
def feed(
    *,
    products: tuple[str, ...],
    verdicts: tuple[str, ...],
    topics: tuple[str, ...],
    position: str,
    url: str | None,
    as_json: bool,
) -> None:
    """Follow the live feed until Ctrl-C; comes back to where it was when the line is cut."""
    wanted = {"products": products, "verdicts": verdicts, "topics": topics}
    subscribe = {name: list(values) for name, values in wanted.items() if values}
    asyncio.run(_follow(url or default_url(), subscribe, position, as_json=as_json))


async def _follow(url: str, subscribe: dict[str, Any], position: str, *, as_json: bool) -> None:
    address = url.rstrip("/").replace("http", "ws", 1) + "/v1/feed"
    token = os.environ.get("LINESIDE_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    connected_once = False
    while True:
        try:
            async with websockets.connect(
                address, compression=None, proxy=None, additional_headers=headers
            ) as line:
                connected_once = True
                await line.send(json.dumps({"subscribe": subscribe, "position": position}))
                async for text in line:
                    message = json.loads(text)
                    position = message.get("position", position)
                    _show(message, str(text), as_json=as_json)
        except websockets.InvalidStatus as error:
            status = error.response.status_code
            raise ConfigError(f"{url} refuses ({status}); set LINESIDE_TOKEN") from None
        except (OSError, websockets.WebSocketException) as error:
            if not connected_once:
                message_text = f"nobody answers at {url} ({error}); start it with: lineside up"
                raise ConfigError(message_text) from None
            click.echo("the line is cut; trying again", err=True)
        await asyncio.sleep(_RECONNECT_S)


def _show(message: dict[str, Any], text: str, *, as_json: bool) -> None:
    if as_json:
        click.echo(text)
        return
    if message["type"] == "hello" and not message["recovered"]:
        click.echo(f"history is gone; the log holds {message['from']} to {message['to']}", err=True)
    if message["type"] != "event":
        return
    event = message["event"]
    subject = event.get("subject") or {}
    said = event.get("verdict") or event.get("reason") or event.get("sentence") or ""
    click.echo(
        f"{event['occurred_at'][:19]}  {message['topic']:22} {subject.get('product', '')}  "
        f"{subject.get('part_id') or subject.get('image_id', '')}  {said}"
    )


COMMANDS = {"feed": feed}
