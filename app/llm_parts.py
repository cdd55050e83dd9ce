"""What the llm role is made of."""

from __future__ import annotations

from dataclasses import dataclass

from app.roles import Kit
from app.text_models import build_text_model
from consumers.llm.library import ManualLibrary
from consumers.llm.stage import LlmWorld
from consumers.llm.tokens import choose_tokenizer
from pipeline.lifecycle import Service
from pipeline.replica import Replica


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
    )
    return LlmRole(products, manuals, [library], world)
