"""What the anomaly role is made of."""

from __future__ import annotations

from dataclasses import dataclass

from adapters.fast_jpeg import decode_rgb
from adapters.networks import fold_batch_norms
from adapters.weights import load_weights
from app.roles import Kit
from consumers.anomaly.bank_files import BankLibrary
from consumers.anomaly.features import open_extractor
from consumers.anomaly.fit import FitParts
from consumers.anomaly.fitting import model_name, plan_for
from consumers.anomaly.stage import AnomalyParts
from pipeline.errors import ConfigError
from pipeline.replica import Replica


@dataclass(frozen=True)
class AnomalyRole:
    """Parts of the two stages and the replicas that they read."""

    products: Replica
    banks: Replica
    parts: AnomalyParts
    fit_parts: FitParts


def build_parts(kit: Kit) -> AnomalyRole:
    """Load the backbone and put the parts together; takes seconds."""
    chosen = kit.settings.anomaly
    if chosen.precision != "fp32":
        raise ConfigError(
            "LINESIDE_ANOMALY__PRECISION=fp16: not shown to give the same verdicts yet; use fp32"
        )
    weights = load_weights(chosen.backbone, chosen.weights)
    extractor = open_extractor(
        chosen.backbone, weights.state_dict, weights.sha256, fold=fold_batch_norms
    )
    store = kit.resources.objects
    products, banks = kit.replica("products.configured"), kit.replica("banks.published")
    model = model_name(extractor)
    plan = plan_for(extractor, chosen.coreset_ratio)
    library = BankLibrary(store, banks, model)
    return AnomalyRole(
        products,
        banks,
        AnomalyParts(products, library, store, decode_rgb, extractor, kit.clock, kit.max_bytes),
        FitParts(products, store, decode_rgb, extractor, plan, kit.clock, kit.max_bytes),
    )
