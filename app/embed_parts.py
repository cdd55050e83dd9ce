"""What the embed role is made of."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import FastAPI

from adapters.fast_jpeg import decode_rgb
from adapters.networks import fold_batch_norms
from adapters.weights import Weights, load_weights
from app.roles import Kit
from console.problems import install_problem_handlers
from consumers.embed.cases import CaseIndexer, Workbench
from consumers.embed.encoder import open_encoder
from consumers.embed.index import CaseIndex
from consumers.embed.search_api import build_router
from consumers.embed.stage import EmbedParts
from pipeline.replica import Replica
from schemas.subject import Subject


@dataclass(frozen=True)
class EmbedRole:
    """Parts of the stage and the search, and the replicas that they read."""

    products: Replica
    cases: Replica
    indexer: CaseIndexer
    index: CaseIndex
    bench: Workbench
    parts: EmbedParts


def build_parts(kit: Kit) -> EmbedRole:
    """Load the encoder and put the parts together; takes seconds."""
    chosen = kit.settings.embed

    def load(model: str) -> Weights:
        return load_weights(model, chosen.weights)

    encoder = open_encoder(chosen.model, load, fold=fold_batch_norms)
    bench = Workbench(kit.resources.objects, decode_rgb, encoder, kit.max_bytes)
    index = CaseIndex(encoder.dimension, encoder.namespace)
    indexer = CaseIndexer(bench, index, clock=kit.clock)
    cases = kit.replica("cases.registered", indexer.note)
    indexer.follow(cases)
    products = kit.replica("products.configured")
    parts = EmbedParts(bench, index, products, indexer.wait_ready, kit.clock)
    return EmbedRole(products, cases, indexer, index, bench, parts)


def build_search_app(kit: Kit, role: EmbedRole) -> FastAPI:
    """Return the search's own small application; the web role passes searches on to it."""

    async def subject_of(image_id: str) -> Subject | None:
        view = await kit.resources.inspections.get(image_id)
        return Subject.model_validate(view["subject"]) if view else None

    app = FastAPI(title="Lineside search", docs_url=None, redoc_url=None)
    install_problem_handlers(app)
    app.include_router(build_router(role.bench, role.index, role.indexer, subject_of))
    return app
