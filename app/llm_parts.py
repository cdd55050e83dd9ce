"""What the llm role is made of."""

from __future__ import annotations

from dataclasses import dataclass

from app.roles import Kit
from app.settings import LlmSettings
from app.text_models import build_text_model
from consumers.llm.library import ManualLibrary
from consumers.llm.stage import LlmWorld
from consumers.llm.tokens import choose_tokenizer
from pipeline.lifecycle import Service
from pipeline.replica import Replica

# Reports beyond those that the model writes: they show the manual's own words while they wait.
# As many as a line has flawed parts in the 15 s that a server which hangs takes to be found out.
_WAITING = 28


def reports_at_once(llm: LlmSettings) -> int:
    """How many reports are in the making at once."""
    return llm.slots + (_WAITING if llm.base_url else 0)


@dataclass(frozen=True)
class LlmRole:
    """The stage's world, and what has to run beside it."""

    products: Replica
    manuals: Replica
    services: list[Service]
    parts: LlmWorld


def build_parts(kit: Kit) -> LlmRole:
    """Put the parts together; the tokenizer's dictionary loads with the first manual."""
    resources = kit.resources
    tokenizer = choose_tokenizer()
    library = ManualLibrary(resources.objects, tokenizer)
    products = kit.replica("products.configured")
    manuals = kit.replica("manuals.published", library.apply)
    world = LlmWorld(
        products=products,
        library=library,
        inspections=resources.inspections,
        sink=resources.sink,
        clock=kit.clock,
        tokenizer=tokenizer,
        model=build_text_model(kit.settings),
        catalog=resources.catalog,
        asks_at_once=kit.settings.llm.slots,
    )
    return LlmRole(products, manuals, [library], world)
