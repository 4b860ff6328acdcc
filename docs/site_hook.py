"""mkdocs hook: the root of the site is the root of the repository.

mkdocs reads one folder, docs/. This site also holds the README, results/ and a few other files, each at its own place,
so that a relative link such as `../results/figures/x.png` works in the site and on a code host alike.

The pages of tables, cells and pictures are made from results/ during the build (experiments/analysis/site.py).

`make page` leaves the networks of the drawing page in build/site/. A site without them has a page that says so.
"""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from experiments.analysis.site import navigation, site_pages

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
made: dict[str, str] = {}  # file of results/ -> Markdown, of the build that runs


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Makes the pages of results, and lists those of the tables and the gallery first among the results."""
    made.clear()
    made.update(site_pages(ROOT / "results"))
    group = next(entry["Results"] for entry in config.nav or () if "Results" in entry)
    group[:0] = navigation("results", made)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replaces the files of docs/ by those of the repository; the theme's own files stay."""
    inside = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*")) if path.is_file()]
    names = [*FILES, *(path.relative_to(ROOT).as_posix() for path in inside if path.suffix != ".pyc")]
    theme = [file for file in files if file.src_dir != config.docs_dir]
    built = [path.relative_to(BUILT).as_posix() for path in sorted(BUILT.rglob("*")) if path.is_file()]
    pages = {f"results/{name}": text for name, text in made.items()}
    found = [(name, ROOT) for name in names if name not in pages] + [(name, BUILT) for name in built]
    ours = [File(name, str(folder), config.site_dir, use_directory_urls=False) for name, folder in found]
    ours += [File.generated(config, name, content=text) for name, text in pages.items()]
    if PAGE not in built:
        ours.append(File.generated(config, PAGE, content=""))
    return Files([*theme, *ours])
