"""The paper's networks, by the paper's names; `beyond` has one that is not the paper's."""
