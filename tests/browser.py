"""A headless Chromium, driven by selenium, that tells what went wrong in it and what it asked the network for."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Self

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

WAIT_S = 30.0

# Nothing of a machine's surroundings: no accounts, no updates, no sandbox (which wants rights that containers lack).
_ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--window-size=1400,1000",
)


class Browser:
    """One Chromium. A context manager."""

    def __init__(self) -> None:
        chromium = shutil.which(os.environ.get("CHROMIUM", "chromium"))
        driver = shutil.which(os.environ.get("CHROMEDRIVER", "chromedriver"))
        if chromium is None or driver is None:
            pytest.fail("no Chromium with its driver: make test installs them; or name them by CHROMIUM, CHROMEDRIVER")
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for argument in _ARGUMENTS:
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self._folder = tempfile.TemporaryDirectory(prefix="zkmig-browser-")  # a Chromium that ends leaves some behind
        service = Service(driver, env={**os.environ, "TMPDIR": self._folder.name})
        self.driver = webdriver.Chrome(options=options, service=service)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._folder:
            self.driver.quit()

    def open(self, page: Path) -> None:
        """Open a file. What was in the logs before is dropped."""
        self.complaints(), self.requests()
        self.driver.get(page.as_uri())

    def complaints(self) -> list[str]:
        """What the console has said since it was asked last: errors, and what the page's policy has refused."""
        return [entry["message"] for entry in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]

    def requests(self) -> list[str]:
        """Addresses that were asked for since this was asked last."""
        found = []
        for entry in self.driver.get_log("performance"):  # type: ignore[no-untyped-call]
            message = json.loads(entry["message"])["message"]
            if message["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated"):
                found.append(message["params"].get("request", message["params"])["url"])
        return found

    def all(self, selector: str) -> list[WebElement]:
        """Elements now, by CSS."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        """The first of them; there is one."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        """What is written in each, whether or not it is in view."""
        found = self.run(
            "return [...document.querySelectorAll(arguments[0])].map((each) => each.textContent)", selector
        )
        return list(found)

    def until(self, is_so: Any, what: str) -> None:
        """Wait until a function of nothing says so."""
        WebDriverWait(self.driver, WAIT_S, 0.02).until(lambda _: is_so(), what)

    def run(self, script: str, *arguments: Any) -> Any:
        """The value of a script."""
        return self.driver.execute_script(script, *arguments)

    @property
    def nodes(self) -> int:
        """How many elements the page has."""
        return int(self.run("return document.getElementsByTagName('*').length"))
