"""Memory banks as files: safetensors and a manifest, written once, checked at every load.

Below `banks/<product>/<version>/`: `bank.safetensors` (arrays) and `manifest.json` (all else,
with the digest of the arrays). The event that publishes a bank carries the manifest's digest, so
one digest vouches for everything. The manifest is written last: without it there is no bank.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from consumers.anomaly.calibration import Calibration
from consumers.anomaly.memory_bank import MemoryBank
from pipeline.errors import LinesideError, PoisonError
from pipeline.ports import BlobStore
from schemas.configuration import BankPublished
from schemas.event import Event

FORMAT = 1
_CAPACITY_BYTES = 1_000_000_000


class BankUnavailableError(LinesideError):
    """No image can be judged with this bank; activate another or build it anew."""

    def __init__(self, reason: str, message: str = "") -> None:
        """`reason` is a stable slug: `no_bank`, `bank_unknown`, `bank_damaged`, `bank_model`."""
        super().__init__(message)
        self.reason = reason


class StateLookup(Protocol):
    """A replica of a control topic."""

    async def lookup(self, key: str) -> Event | None:
        """Return the newest event of a key; catches up with the log before it answers None."""
        ...


class BankFiles(NamedTuple):
    """A bank as bytes."""

    tensors: bytes
    manifest: bytes

    @property
    def sha256(self) -> str:
        """Digest of the manifest, which holds the arrays' digest."""
        return hashlib.sha256(self.manifest).hexdigest()


def bank_prefix(product: str, version: str) -> str:
    """Key prefix of a bank's files."""
    return f"banks/{product}/{version}/"


def pack_bank(bank: MemoryBank, notes: Mapping[str, Any]) -> BankFiles:
    """Turn a bank into files.

    Args:
        bank: the bank.
        notes: how it was made (recipe, seed, coreset ratio and radius, images left out), JSON.
    """
    tensors = save(
        {
            "vectors": bank.vectors.contiguous(),
            "scale": bank.scale,
            "owners": torch.from_numpy(bank.owners),
            "descriptors": bank.descriptors.contiguous(),
        }
    )
    manifest = {
        "format": FORMAT,
        "product": bank.product,
        "version": bank.version,
        "model": bank.model,
        "image_keys": list(bank.image_keys),
        "calibration": bank.calibration.as_json(),
        "tensors_sha256": hashlib.sha256(tensors).hexdigest(),
        "tensors_bytes": len(tensors),
        "notes": dict(notes),
    }
    text = json.dumps(manifest, ensure_ascii=False, sort_keys=True, indent=1)
    return BankFiles(tensors, text.encode())


def unpack_bank(files: BankFiles, sha256: str) -> MemoryBank:
    """Turn files into a bank, if they are the ones that `sha256` vouches for.

    Raises:
        BankUnavailableError: `bank_damaged`.
    """
    if files.sha256 != sha256:
        raise BankUnavailableError("bank_damaged", "the manifest is not the published one")
    manifest = json.loads(files.manifest)
    if hashlib.sha256(files.tensors).hexdigest() != manifest["tensors_sha256"]:
        raise BankUnavailableError("bank_damaged", "the arrays are not those of the manifest")
    if manifest["format"] != FORMAT:
        raise BankUnavailableError("bank_damaged", f"bank format {manifest['format']} is unknown")
    try:
        tensors = load(files.tensors)
    except SafetensorError as error:
        raise BankUnavailableError("bank_damaged", str(error)) from error
    return MemoryBank(
        product=manifest["product"],
        version=manifest["version"],
        vectors=tensors["vectors"],
        scale=tensors["scale"],
        owners=tensors["owners"].numpy(),
        descriptors=tensors["descriptors"],
        image_keys=tuple(manifest["image_keys"]),
        model=manifest["model"],
        calibration=Calibration.from_json(manifest["calibration"]),
    )


async def write_bank(store: BlobStore, bank: MemoryBank, files: BankFiles) -> None:
    """Put a bank into the store, the manifest last."""
    prefix = bank_prefix(bank.product, bank.version)
    await store.put(
        prefix + "bank.safetensors", files.tensors, content_type="application/octet-stream"
    )
    await store.put(prefix + "manifest.json", files.manifest, content_type="application/json")


async def read_bank(store: BlobStore, prefix: str, sha256: str | None) -> MemoryBank:
    """Read a bank and check it; without `sha256` the manifest found vouches for itself.

    Raises:
        BankUnavailableError: `bank_damaged`, or `bank_unknown` where a file is missing.
        DependencyDownError: the store is away.
    """
    try:
        manifest = await store.get(prefix + "manifest.json")
        tensors = await store.get(prefix + "bank.safetensors")
    except PoisonError as error:
        raise BankUnavailableError("bank_unknown", f"{prefix}: {error}") from error
    files = BankFiles(tensors, manifest)
    return await asyncio.to_thread(unpack_bank, files, sha256 or files.sha256)


class BankLibrary:
    """Published banks, loaded when first asked for; the least recently used ones leave first.

    A swap is atomic for an image: it holds the bank it was loaded with until it is judged.
    """

    def __init__(
        self,
        store: BlobStore,
        published: StateLookup,
        model: str,
        capacity_bytes: int = _CAPACITY_BYTES,
    ) -> None:
        """Keep up to `capacity_bytes` of banks made by `model`, the worker's own network."""
        self._store = store
        self._published = published
        self._model = model
        self._capacity_bytes = capacity_bytes
        self._banks: OrderedDict[tuple[str, str], MemoryBank] = OrderedDict()
        self._loading: dict[tuple[str, str], asyncio.Lock] = {}

    async def open(self, product: str, version: str | None) -> MemoryBank:
        """Return a product's bank of that version.

        Raises:
            BankUnavailableError: `no_bank` when none is active, `bank_unknown` when none of that
                version was published, `bank_damaged`, or `bank_model` when another network made it.
            DependencyDownError: the store is away.
        """
        if version is None:
            raise BankUnavailableError("no_bank", f"{product} has no active bank; build one")
        name = (product, version)
        if name not in self._banks:
            async with self._loading.setdefault(name, asyncio.Lock()):
                if name not in self._banks:
                    self._keep(name, await self._load(product, version))
            self._loading.pop(name, None)
        self._banks.move_to_end(name)
        return self._banks[name]

    async def _load(self, product: str, version: str) -> MemoryBank:
        event = await self._published.lookup(f"{product}/{version}")
        if not isinstance(event, BankPublished):
            raise BankUnavailableError("bank_unknown", f"{product} has no bank {version}")
        if event.model != self._model:
            message = f"bank {version} was made by {event.model}, this worker runs {self._model}"
            raise BankUnavailableError("bank_model", message)
        return await read_bank(self._store, event.prefix, event.sha256)

    def _keep(self, name: tuple[str, str], bank: MemoryBank) -> None:
        self._banks[name] = bank
        while len(self._banks) > 1 and self._held_bytes() > self._capacity_bytes:
            self._banks.popitem(last=False)

    def _held_bytes(self) -> int:
        return sum(bank.size_bytes for bank in self._banks.values())
