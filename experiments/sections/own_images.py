"""Images that a user brings: pictures, and no table, since the paper has no such experiment."""

from experiments.report import Section
from experiments.sections.figures import some_photographs

SECTION = Section(name="own_images", tables=(), draw=some_photographs)
