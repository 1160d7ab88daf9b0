"""report.html: a training run on one page, for who was not there. One file that needs no network and no script."""

from sanseg.report.page import write_report

__all__ = ["write_report"]
