"""What is known of each latent."""

from saev.latents.atlas import Atlas as Atlas
from saev.latents.codes import CodePart as CodePart
from saev.latents.codes import ImageCodes as ImageCodes
from saev.latents.exemplars import Exemplar as Exemplar
from saev.latents.exemplars import Exemplars as Exemplars
from saev.latents.statistics import LatentStatistics as LatentStatistics
from saev.latents.store import CodeStore as CodeStore
