"""Figures and pages."""

from saev.report.figures import LatentRow as LatentRow
from saev.report.figures import Tile as Tile
from saev.report.figures import exemplar_figure as exemplar_figure
from saev.report.figures import firing_histogram as firing_histogram
