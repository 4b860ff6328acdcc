"""For `torch.hub`: the trained networks of this repository.

torch.hub.load("path/of/the/checkout", "pretrained", "mnist_rts/st_cnn-affine", source="local")
"""

from stn.models import pretrained, pretrained_names

__all__ = ["pretrained", "pretrained_names"]

dependencies = ["numpy", "safetensors", "torch"]
