"""A small anomaly stage on memory: a seeded network, drawn textures, a product with a bank."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from uuid import UUID, uuid5

import cv2
import numpy as np
import timm
import torch
from numpy.typing import NDArray

from adapters.memory.clock import VirtualClock
from adapters.memory.objects import MemoryObjects
from adapters.pictures import decode_rgb
from consumers.anomaly.bank_files import BankLibrary
from consumers.anomaly.features import FeatureExtractor, open_extractor
from consumers.anomaly.fit import BankBuildStage, BuildItem, FitParts
from consumers.anomaly.fitting import model_name, plan_for
from consumers.anomaly.stage import AnomalyParts, AnomalyStage
from schemas.configuration import BankPublished, BankRequested, Policy, ProductConfigured
from schemas.event import Event
from schemas.images import ImageUploaded
from schemas.subject import ImageRef, Requested, Subject

BACKBONE = "timm:tf_efficientnet_lite0"
PRODUCT = "천-01"
AT = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
_NAMES = UUID("0c6f8f6e-6f0c-4f4f-9d7b-2f2f5b1f0a11")


@cache
def extractor() -> FeatureExtractor:
    """Lite0 with seeded random weights on small images: fast, and in need of no file."""
    torch.manual_seed(3)
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    built = open_extractor(BACKBONE, network.state_dict(), "0" * 64, threads=1, device="cpu")
    built.recipe = replace(built.recipe, side_px=96)
    return built


def cloth(seed: int, *, stain: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Draw (120, 160, 3) RGB woven cloth; `stain` = (x, y) puts a dark spot of 9 px there."""
    chance = np.random.default_rng(seed)
    y, x = np.mgrid[:120, :160]
    shift = chance.uniform(0, 6, 2)
    weave = 20 * np.sin((x + shift[0]) / 3) + 20 * np.sin((y + shift[1]) / 4)
    picture = np.stack([130 + weave + chance.normal(0, 3, x.shape)] * 3, axis=-1)
    if stain is not None:
        cv2.circle(picture, stain, 9, (20, 20, 60), -1)
    return np.asarray(np.clip(picture, 0, 255), np.uint8)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode losslessly."""
    done, data = cv2.imencode(".png", np.ascontiguousarray(pixels[..., ::-1]))
    assert done
    return data.tobytes()


class State:
    """A replica whose events a test sets."""

    def __init__(self) -> None:
        self.events: dict[str, Event] = {}

    async def lookup(self, key: str) -> Event | None:
        return self.events.get(key)


@dataclass
class Plant:
    """One product, its photos, both stages."""

    clock: VirtualClock = field(default_factory=VirtualClock)
    products: State = field(default_factory=State)
    published: State = field(default_factory=State)

    def __post_init__(self) -> None:
        self.store = MemoryObjects(clock=self.clock)
        model = model_name(extractor())
        self.plan = plan_for(extractor(), 0.01)
        self.library = BankLibrary(self.store, self.published, model)
        self.stage = AnomalyStage(
            AnomalyParts(
                self.products, self.library, self.store, decode_rgb, extractor(), self.clock
            )
        )
        self.build = BankBuildStage(
            FitParts(self.products, self.store, decode_rgb, extractor(), self.plan, self.clock)
        )
        self.configure()

    def configure(self, **changes: object) -> ProductConfigured:
        """Set the product up; automatic inspection unless told otherwise."""
        facts: dict[str, object] = {
            "event_id": uuid5(_NAMES, repr(sorted(changes.items()))),
            "occurred_at": AT,
            "product": PRODUCT,
            "display_name": "천",
            "policy": Policy(anomaly="auto"),
            **changes,
        }
        event = ProductConfigured.model_validate(facts)
        self.products.events[PRODUCT] = event
        return event

    async def put_normals(self, count: int) -> list[str]:
        """Store drawn normal photos; returns their keys."""
        keys = []
        for seed in range(count):
            data = png(cloth(seed))
            key = f"normals/{PRODUCT}/{hashlib.sha256(data).hexdigest()}"
            await self.store.put(key, data, content_type="image/png")
            keys.append(key)
        return keys

    async def make_bank(self, normals: int = 8) -> BankPublished:
        """Build a bank, publish and activate it."""
        await self.put_normals(normals)
        event = bank_requested()
        item = await self.build.load(event)
        assert isinstance(item, BuildItem)
        published = await self.build.save(event, await self.build.infer(item))
        self.published.events[f"{PRODUCT}/{published.version}"] = published
        self.configure(active_bank=published.version)
        return published

    async def upload(self, pixels: NDArray[np.uint8], **wishes: str) -> ImageUploaded:
        """Store an image and return its event."""
        data = png(pixels)
        digest = hashlib.sha256(data).hexdigest()
        await self.store.put(f"images/{digest}", data, content_type="image/png")
        image = ImageRef(
            bucket="memory", key=f"images/{digest}", sha256=digest, size_bytes=len(data)
        )
        subject = Subject(
            image_id=digest[:32],
            product=PRODUCT,
            captured_at=AT,
            received_at=AT,
            image=image,
            requested=Requested.model_validate(wishes),
        )
        return ImageUploaded(event_id=uuid5(_NAMES, digest), occurred_at=AT, subject=subject)


_BUILT: dict[str, bytes] = {}
_PUBLISHED: list[BankPublished] = []


async def ready_plant() -> Plant:
    """A plant with an active bank, built once for all tests that do not change it."""
    plant = Plant()
    if not _PUBLISHED:
        maker = Plant()
        _PUBLISHED.append(await maker.make_bank())
        _BUILT.update({key: await maker.store.get(key) for key in maker.store.keys()})  # noqa: SIM118 - a method of the store
    for key, data in _BUILT.items():
        await plant.store.put(key, data, content_type="application/octet-stream")
    published = _PUBLISHED[0]
    plant.published.events[f"{PRODUCT}/{published.version}"] = published
    plant.configure(active_bank=published.version)
    return plant


def bank_requested(job_id: str = "job-1", product: str = PRODUCT) -> BankRequested:
    """Somebody asks for a bank."""
    return BankRequested(
        event_id=uuid5(_NAMES, job_id),
        occurred_at=AT,
        product=product,
        job_id=job_id,
        requested_by="tester",
    )
