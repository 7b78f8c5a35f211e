"""What an image is compared with: an image of the same size on which the latent's evidence is gone."""

import math

from jaxtyping import Float
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

BASELINES = ("blur", "mean")


def blurred(image: Float[Tensor, "3 h w"], grid: tuple[int, int]) -> Float[Tensor, "3 h w"]:
    """The image after a Gaussian as wide (one standard deviation) as the longer side of a patch.

    Colours of regions stay, whatever has detail within a patch goes.
    """
    height, width = image.shape[-2:]
    sigma = max(height / grid[0], width / grid[1])
    # three deviations to both sides; torch's reflection must stay inside the image
    kernel = [min(2 * math.ceil(3 * sigma) + 1, 2 * side - 1) for side in (width, height)]
    return gaussian_blur(image, kernel, [sigma, sigma])


def reference_image(
    kind: str, image: Float[Tensor, "3 h w"], grid: tuple[int, int]
) -> Float[Tensor, "3 h w"]:
    """ "blur": :func:`blurred`; "mean": the mean colour of the backbone's training images, which is 0
    after its normalisation."""
    return blurred(image, grid) if kind == "blur" else image.new_zeros(image.shape)
