"""The planner's page in headless Chromium: its Python answers as ours does, and a reader can use it in every way."""

from .test_pages import LOOK, SCHEMES, WIDTHS, Book, book, keep_screenshot, tab  # noqa: F401
