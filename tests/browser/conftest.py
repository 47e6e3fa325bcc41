"""A real browser without a network; its tests skip where none is installed."""

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser_of() -> Iterator[Callable[..., Any]]:
    """Opens browsers, of a size and with a look; all are closed at the end."""
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("no chromium with its driver: apt-get install chromium chromium-driver")
    opened = []

    def open_one(width: int = 1300, height: int = 900, downloads: Path | None = None) -> Any:
        options = selenium.ChromeOptions()
        options.binary_location = browser
        for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
            options.add_argument(argument)
        options.add_argument(f"--window-size={width},{height}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        if downloads is not None:
            options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
        made = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
        opened.append(made)
        made.execute_cdp_cmd("Network.enable", {})
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        made.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
        return made

    yield open_one
    for made in opened:
        made.quit()
