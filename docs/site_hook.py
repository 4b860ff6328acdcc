"""mkdocs hook: the root of the site is the root of the repository.

mkdocs reads one folder, docs/. This site also holds the README, results/ and a few other files, each at its own place,
so that a relative link such as `../results/figures/x.png` works in the site and on a code host alike.

`make page` leaves the networks of the drawing page in build/site/. A site without them has a page that says so.
"""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
FILES = (
    "README.md",
    "CHANGELOG.md",
    "CITATION.cff",
    "CONTRIBUTING.md",
    "LICENSE",
    "data/README.md",
    "weights/README.md",
)
FOLDERS = ("docs", "notebooks", "results")
BUILT = ROOT / "build" / "site"
PAGE = "docs/draw/columns.js"  # lists the networks of the drawing page


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replaces the files of docs/ by those of the repository; the theme's own files stay."""
    inside = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*")) if path.is_file()]
    names = [*FILES, *(path.relative_to(ROOT).as_posix() for path in inside if path.suffix != ".pyc")]
    theme = [file for file in files if file.src_dir != config.docs_dir]
    built = [path.relative_to(BUILT).as_posix() for path in sorted(BUILT.rglob("*")) if path.is_file()]
    found = [(name, ROOT) for name in names] + [(name, BUILT) for name in built]
    ours = [File(name, str(folder), config.site_dir, use_directory_urls=False) for name, folder in found]
    if PAGE not in built:
        ours.append(File.generated(config, PAGE, content=""))
    return Files([*theme, *ours])
