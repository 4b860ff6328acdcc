"""The paper's networks, by the paper's names; `beyond` has one more. `pretrained` loads trained ones."""

from stn.models.weights import pretrained, pretrained_names

__all__ = ["pretrained", "pretrained_names"]
