"""What a photo costs: the time of each stage beside the time of its matrix products, and memory."""

from sanseg.benchmark.case import Case
from sanseg.benchmark.report import Measured, Report, Stage, Times
from sanseg.benchmark.rounds import measure

__all__ = ["Case", "Measured", "Report", "Stage", "Times", "measure"]
