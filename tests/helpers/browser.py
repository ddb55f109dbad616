"""A real Chromium, Debian's own, driven by Playwright: started once for all tests of a module."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = "chromium"


@contextmanager
def chromium() -> Iterator[Any]:
    """The browser; a test fails where there is none, for what it holds is not seen otherwise."""
    path = shutil.which(CHROMIUM)
    if path is None:
        pytest.fail("there is no chromium here: `apt-get install --no-install-recommends chromium`", pytrace=False)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.fail("there is no playwright here: `make venv` installs it", pytrace=False)
    # As root it has no sandbox; what it looks at is the test's own.
    options = ["--no-sandbox"] if os.getuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=options)
        try:
            yield browser
        finally:
            browser.close()
