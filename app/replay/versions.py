"""Stages in a chosen version, on replicas and stores that touch nothing live."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.replay.request import Request, Version
from app.roles import Kit
from app.settings import Settings
from pipeline.errors import ConfigError
from pipeline.lifecycle import Service
from pipeline.replica import Replica
from pipeline.stage import Stage
from pipeline.worker_settings import WorkerSettings
from schemas.configuration import BankPublished, Policy, ProductConfigured

ALWAYS = Policy(anomaly="auto", report="auto")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A stage with all that runs beside it.

    Attributes:
        replicas: are caught up before anything else.
        check: then says what exactly will run, or raises ConfigError listing what there is.
        ready: then waits until the first event can be taken.
    """

    stage: Stage
    replicas: tuple[Replica, ...]
    services: tuple[Service, ...]
    worker: WorkerSettings
    check: Callable[[], Awaitable[dict[str, Any]]]
    ready: Callable[[], Awaitable[None]] | None = None


class ChosenProducts:
    """The products as a replay wants them judged: another bank, threshold, revision or policy."""

    def __init__(self, products: Replica, version: Version) -> None:
        """Take everything that `version` leaves open from the replica."""
        self._products = products
        self._version = version
        self.revised: ProductConfigured | None = None

    async def lookup(self, key: str) -> Any:
        """Return the product's record with the chosen values in it, None if there is none."""
        found = await self._products.lookup(key)
        if not isinstance(found, ProductConfigured):
            return found
        chosen, version = self.revised or found, self._version
        changes: dict[str, Any] = {}
        if version.bank is not None:
            changes["active_bank"] = version.bank
        if version.threshold is not None:
            changes["threshold"] = version.threshold
        if version.every:
            changes["policy"] = ALWAYS
        return chosen.model_copy(update=changes) if changes else chosen


def chosen_settings(settings: Settings, stage: str, model: str | None) -> Settings:
    """Return the settings with the stage's model replaced."""
    if model is None:
        return settings
    field = {"anomaly": "backbone", "embed": "model", "llm": "model"}[stage]
    section = getattr(settings, stage).model_copy(update={field: model})
    return settings.model_copy(update={stage: section})


async def prepare(kit: Kit, request: Request, prefix: str) -> Prepared:
    """Build the stage of a replay; loads its model, which takes seconds.

    Args:
        kit: its sink and store are the replay's own.
        request: what is wanted.
        prefix: key prefix of the replay's objects.

    Raises:
        ConfigError: no such model, or a version that the stage does not have.
    """
    _check_options(request)
    build = {"anomaly": _anomaly, "embed": _embed, "llm": _llm}[request.stage]
    return await asyncio.to_thread(build, kit, request, prefix)


def _check_options(request: Request) -> None:
    version = request.version
    own = {"--bank": version.bank, "--threshold": version.threshold, "--revision": version.revision}
    named = [option for option, value in own.items() if value is not None]
    if named and request.stage != "anomaly":
        raise ConfigError(f"{named[0]} is for --stage anomaly, not for {request.stage}")
    if named and request.product is None:
        raise ConfigError(f"{named[0]} belongs to one product: add --product")


def _anomaly(kit: Kit, request: Request, prefix: str) -> Prepared:
    from app.anomaly_parts import build_parts  # noqa: PLC0415 - brings torch
    from consumers.anomaly.fitting import model_name  # noqa: PLC0415 - as above
    from consumers.anomaly.stage import AnomalyStage  # noqa: PLC0415 - as above

    made = build_parts(kit)
    products = ChosenProducts(made.products, request.version)
    parts = replace(made.parts, products=products, object_prefix=prefix)
    model = model_name(parts.extractor)

    async def check() -> dict[str, Any]:
        if request.version.revision is not None:
            products.revised = await _revision(kit, request)
        banks = [await _bank_of(products, code) for code in _codes(made.products, request)]
        for code, version in banks:
            if version is not None or request.product is not None:
                _check_bank(made.banks, code, version, model)
        return {
            "model": model,
            "banks": {code: version for code, version in banks if version is not None},
            "threshold": request.version.threshold,
            "revision": request.version.revision,
        }

    replicas = (made.products, made.banks)
    return Prepared(AnomalyStage(parts), replicas, (), WorkerSettings(batch_size=8), check)


def _codes(products: Replica, request: Request) -> list[str]:
    known = sorted(str(event.product) for event in products.values())
    if request.product is None:
        return known
    if request.product not in known:
        there = ", ".join(known) or "none is set up"
        raise ConfigError(f"no product {request.product}; there are: {there}")
    return [request.product]


async def _bank_of(products: ChosenProducts, code: str) -> tuple[str, str | None]:
    found = await products.lookup(code)
    return code, found.active_bank if isinstance(found, ProductConfigured) else None


def _check_bank(banks: Replica, code: str, version: str | None, model: str) -> None:
    published = [
        event
        for event in banks.values()
        if isinstance(event, BankPublished) and event.product == code
    ]
    there = "; ".join(f"{one.version} of {one.model}" for one in published) or "none"
    if version is None:
        raise ConfigError(f"{code} has no active bank: name one with --bank; there are: {there}")
    chosen = next((one for one in published if one.version == version), None)
    if chosen is None:
        raise ConfigError(f"{code} has no bank {version}; there are: {there}")
    if chosen.model != model:
        raise ConfigError(
            f"bank {version} of {code} was made by {chosen.model}, this replay runs {model}: name "
            f"its network with --model, or another bank; there are: {there}"
        )


async def _revision(kit: Kit, request: Request) -> ProductConfigured:
    assert request.product is not None
    rows = await kit.resources.catalog.revisions(request.product)
    for row in rows:
        if row["revision"] == request.version.revision:
            return ProductConfigured.model_validate(row)
    there = ", ".join(str(row["revision"]) for row in rows) or "none"
    raise ConfigError(
        f"{request.product} has no revision {request.version.revision}; there are: {there}"
    )


def _embed(kit: Kit, request: Request, prefix: str) -> Prepared:
    del prefix  # it stores nothing but snapshots, which the store itself puts aside
    from app.embed_parts import build_parts  # noqa: PLC0415 - brings torch
    from consumers.embed.stage import EmbedStage  # noqa: PLC0415 - as above

    made = build_parts(kit)

    async def check() -> dict[str, Any]:
        _codes(made.products, request)
        return {"model": made.bench.encoder.name, "namespace": made.index.namespace}

    return Prepared(
        EmbedStage(made.parts),
        (made.products, made.cases),
        (made.indexer,),
        WorkerSettings(batch_size=8),
        check,
        made.indexer.wait_ready,
    )


def _llm(kit: Kit, request: Request, prefix: str) -> Prepared:
    del prefix  # it stores nothing
    from app.llm_parts import build_parts  # noqa: PLC0415 - brings the manuals' packages
    from consumers.llm.report import PROMPT_VERSION  # noqa: PLC0415 - as above
    from consumers.llm.stage import LlmStage  # noqa: PLC0415 - as above

    made = build_parts(kit)
    parts = replace(made.parts, products=ChosenProducts(made.products, request.version))

    async def check() -> dict[str, Any]:
        _codes(made.products, request)
        if parts.model is None and request.version.model is not None:
            raise ConfigError("--model needs a server: set LINESIDE_LLM__BASE_URL")
        model = await parts.model.check() if parts.model else "extractive"
        return {"model": model, "prompt_version": PROMPT_VERSION}

    services: Sequence[Service] = made.services
    slots = WorkerSettings(slots=kit.settings.llm.slots)
    replicas = (made.products, made.manuals)
    return Prepared(LlmStage(parts), replicas, tuple(services), slots, check)
