"""A network with its batch norms folded says what it said before."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from adapters.networks import fold_batch_norms
from adapters.weights import load_weights
from pipeline.errors import ConfigError
from tests.services import missing


def norms(network: nn.Module) -> int:
    return sum(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())


def lively(network: nn.Module) -> nn.Module:
    """Give every batch norm statistics of its own, as training would."""
    generator = torch.Generator().manual_seed(5)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            size = layer.running_mean.shape
            layer.running_mean.copy_(torch.randn(size, generator=generator) * 0.1)
            layer.running_var.copy_(torch.rand(size, generator=generator) + 0.5)
    return network.eval().requires_grad_(False)


def assert_equal(one: nn.Module, other: nn.Module) -> None:
    picture = torch.randn(1, 3, 160, 224, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        for before, after in zip(one(picture), other(picture), strict=True):
            torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_the_offline_backbone_keeps_its_features() -> None:
    try:
        weights = load_weights("timm:tf_efficientnet_lite0")
    except ConfigError as error:
        missing("EfficientNet-Lite0 weights", str(error))
    network = timm.create_model(
        "tf_efficientnet_lite0", pretrained=False, features_only=True, out_indices=(2, 3)
    )
    network.load_state_dict(dict(weights.state_dict), strict=False)
    network = network.eval().requires_grad_(False)
    folded = fold_batch_norms(network)
    assert norms(folded) == 0 < norms(network)
    assert_equal(network, folded)


@pytest.mark.parametrize("name", ["wide_resnet50_2", "resnet18"])
def test_a_residual_network_keeps_its_features(name: str) -> None:
    network = lively(
        timm.create_model(name, pretrained=False, features_only=True, out_indices=(2, 3))
    )
    folded = fold_batch_norms(network)
    assert norms(folded) == 0
    assert_equal(network, folded)


def test_a_network_without_batch_norms_is_returned_as_it_is() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    assert fold_batch_norms(network) is network


class OutOfOrder(nn.Module):
    """Its norm is registered behind a convolution that it does not follow."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, pictures: Tensor) -> Tensor:
        answer: Tensor = torch.relu(self.first(self.norm(pictures).relu()))
        return answer


def test_a_network_that_runs_in_another_order_than_it_lists_is_left_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    network = lively(OutOfOrder())
    assert fold_batch_norms(network) is network
    assert "cannot be folded" in caplog.text
