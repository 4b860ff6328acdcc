"""The paper's networks, by the paper's names."""
