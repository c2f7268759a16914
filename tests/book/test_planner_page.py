"""The planner's page in headless Chromium: its Python answers as ours does, and a reader can use it in every way."""

import json
import random
import re
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from llmhw_helpers.costs.planner import answer
from llmhw_helpers.costs.requests import FIELDS, METHODS, USUAL, Request
from llmhw_helpers.specs.accelerators import ACCELERATORS
from llmhw_helpers.specs.clusters import CLUSTERS
from llmhw_helpers.specs.models import MODELS

from .test_pages import LOOK, SCHEMES, WIDTHS, Book, book, keep_screenshot, tab  # noqa: F401
