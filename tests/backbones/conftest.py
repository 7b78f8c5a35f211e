"""Every member of the zoo, one after the other."""

import pytest
import torch
from torch import Tensor

from saev.backbones import Backbone
from tests.fakes.zoo import ZOO


@pytest.fixture(scope="module", params=list(ZOO))
def member(request):
    return ZOO[request.param]


@pytest.fixture(scope="module")
def backbone(member) -> Backbone:
    return member.load()


@pytest.fixture(scope="module")
def images(backbone: Backbone) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, *backbone.image_size, generator=generator)


@pytest.fixture(scope="module")
def clean(backbone: Backbone, images: Tensor):
    return backbone(images)
