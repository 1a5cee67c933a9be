"""From results to what people read: rows (JSON), a table for the terminal, one self-contained HTML page, a picture."""

from forgetting.report.comparison import comparison_page
from forgetting.report.nearness import Pair, Similarities
from forgetting.report.page import page, save_picture
from forgetting.report.published import Publication, Published
from forgetting.report.rows import rows
from forgetting.report.similar import similarities
from forgetting.report.table import table

__all__ = ["Pair", "Publication", "Published", "Similarities", "comparison_page", "page", "rows", "save_picture",
           "similarities", "table"]
