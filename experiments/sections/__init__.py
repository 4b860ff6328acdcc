"""The sections of the paper: its numbers, and our tables and pictures of the same; `upright` is a question of our own.

A new section is a module in this folder with a `SECTION`, and a place in the list below.
"""

from experiments.report import Claim, Section, Table
from experiments.report.subject import Words
from experiments.sections import (
    birds,
    colocalisation,
    distorted_mnist,
    mnist_3d,
    mnist_addition,
    own_images,
    upright,
)

SECTIONS: dict[str, Section] = {
    module.SECTION.name: module.SECTION
    for module in (distorted_mnist, upright, mnist_addition, colocalisation, birds, mnist_3d, own_images)
}
TABLES: dict[str, Table] = {table.name: table for section in SECTIONS.values() for table in section.tables}
CLAIMS: tuple[Claim, ...] = tuple(
    sorted(
        (claim for section in SECTIONS.values() for claim in section.claims), key=lambda claim: claim.number
    )
)


def words_of(experiment: str) -> Words:
    """What the section that knows an experiment calls its runs; the usual words where none does."""
    each = (section.words for section in SECTIONS.values())
    return next((one for one in each if experiment in one.data or experiment in one.networks), Words())
