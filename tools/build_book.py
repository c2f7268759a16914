"""Build the book into _build/html with this interpreter's Jupyter Book; a warning is an error.

Usage: python tools/build_book.py
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book/_ext"))
INDEX = ROOT / "_build" / "html" / "index.html"
CLI = "from jupyter_book.cli.main import main; main()"
# Jupyter Book's own start page names no icon, so a browser asks for /favicon.ico, which is not there.
START = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>LLM and hardware, hands on</title>
<link rel="icon" href="_static/favicon.svg">
<meta http-equiv="refresh" content="0; url=book/intro.html">
</head>
<body><a href="book/intro.html">LLM and hardware, hands on</a></body>
</html>
"""
# What a server sends for an address that leads nowhere, from any folder: it finds the book's own in what was asked for.
MISSING = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<meta name="color-scheme" content="light dark">
<title>No such page - LLM and hardware, hands on</title>
<style>
html { background: Canvas; color: CanvasText; }
body { font: 1.1rem/1.6 system-ui, sans-serif; max-width: 36rem; margin: 15vh auto; padding: 0 1rem; }
</style>
</head>
<body>
<main>
<h1>There is no such page</h1>
<p>Perhaps it has another name now. These are there:</p>
<ul>
<li><a href="book/intro.html">the course's first page, with the list of its notebooks</a></li>
<li><a href="search.html">the search</a></li>
<li><a href="book/glossary.html">the glossary</a></li>
</ul>
</main>
<script>
const root = location.pathname.replace(/(book|notebooks|_static|_images|_sources)\\/.*$|[^/]*$/, "");
for (const link of document.links) link.href = root + link.getAttribute("href");
</script>
</body>
</html>
"""
OPTIONS = ["--config", "_config.yml", "--toc", "book/_toc.yml", "-W", "--keep-going", "-n", "--all"]


def main() -> int:
    from api_modules import write_pages

    write_pages(ROOT / "book/api")
    INDEX.unlink(missing_ok=True)  # so that an index found afterwards is this build's
    status = subprocess.run([sys.executable, "-c", CLI, "build", ".", *OPTIONS], cwd=ROOT).returncode
    if status == 0 and INDEX.is_file():
        INDEX.write_text(START, encoding="utf-8")
        INDEX.with_name("404.html").write_text(MISSING, encoding="utf-8")
        print(f"\nThe book is built: open {INDEX}, or see it with `make serve`.")
        return 0
    print("\nThe book is NOT built: its warnings and errors are above.", file=sys.stderr)
    return status or 1


if __name__ == "__main__":
    sys.exit(main())
