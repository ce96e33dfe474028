"""Pages in a real browser, where there is one."""

import re
import shutil
import subprocess
from pathlib import Path

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)


def opened(page: Path, folder: Path, width: int = 500) -> tuple[str, str]:
    """The page's document after its scripts ran, and what the browser logged."""
    assert BROWSER is not None
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
        "--disable-component-update", "--disable-sync", f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900",
        "--enable-logging=stderr", "--virtual-time-budget=2000", "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout, done.stderr


def answer_of(page: Path, folder: Path, script: str) -> str:
    """What a script says by setting the document's title, as text. The page's policy runs no script but its own, so that the
    one that asks needs a copy without the policy."""
    asked = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    copy = folder / "asked.html"
    copy.write_text(asked.replace("</body>", f"<script>{script}</script></body>"))
    document, log = opened(copy, folder)
    assert "CONSOLE" not in log, log
    title = re.search(r"<title>(.*?)</title>", document)
    assert title is not None
    return title[1].replace("&quot;", '"').replace("&amp;", "&")
