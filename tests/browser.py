"""A real browser for tests: Debian's chromium, headless, driven by Playwright; what it asked for is kept."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, sync_playwright

WAIT = 240_000
"""Milliseconds in which a browser starts, or shows what is waited for, on a machine that does something else too."""
PICTURES = Path(os.environ.get("TUNER_SCREENSHOTS", Path(__file__).resolve().parents[1] / "runs" / "screenshots"))


@dataclass
class Seen:
    """A page, the hosts that it asked, and the errors that it met."""

    page: Page
    hosts: set[str] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)

    def picture(self, name: str) -> Path:
        """A screenshot of the whole page, kept as a build artifact."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        path = PICTURES / f"{name}.png"
        self.page.screenshot(path=path, full_page=True)
        return path


@contextlib.contextmanager
def browser(width: int = 1280, height: int = 900) -> Iterator[Seen]:
    """A page of a browser of its own."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("needs Debian's chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"], timeout=WAIT)
        seen = Seen(started.new_page(viewport={"width": width, "height": height}))
        seen.page.set_default_timeout(WAIT)
        seen.page.on("request", lambda request: seen.hosts.add(urlsplit(request.url).hostname or urlsplit(request.url).scheme))
        seen.page.on("pageerror", lambda error: seen.errors.append(str(error)))
        yield seen
        started.close()
