"""Gaussian smoothing of the loss in theta: for deep networks on images, in short schedules."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.engine.build import UserError
from experiments.engine.task import Batch, Classification
from stn import ParallelTransformers


@runtime_checkable
class ReadsAnywhere(Protocol):
    """A network that classifies an image from its crops at any theta, such as `stn.models.images.ImageSTCNN`."""

    transformers: ParallelTransformers

    def locate(self, image: Tensor) -> Tensor: ...

    def describe(self, image: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]: ...

    def draw_dropout(self, features: Tensor) -> Tensor: ...

    def classify(self, features: Tensor, kept: Tensor) -> Tensor: ...


class SmoothedClassification(Classification):
    """Classification in which theta may follow the gradient of the smoothed loss.

    The loss of a deep network on images is rough in theta. Its local slope, which is what the sampler's gradient gives,
    says little about where a better theta lies (`scripts/landscape.py` measures it). With `smoothing`, theta gets the
    gradient of the loss averaged over a Gaussian around it. The estimate compares two looks at each image, at
    theta + noise and at theta - noise, with the same units dropped (Gaussian smoothing, Nesterov and Spokoiny 2017):
    (loss(theta + noise) - loss(theta - noise)) / (2 sigma^2) * noise. All other parameters are trained by their own
    gradient, on the crops at theta + noise. Evaluation is at theta.

    Args:
        smoothing: sigma at the start and at the end of training, in units of theta. None: the sampler's own gradient.

    Raises:
        UserError: `smoothing` is not two numbers above 0.
    """

    def __init__(self, smoothing: Sequence[float] | None = None) -> None:
        if smoothing is not None and (len(smoothing) != 2 or min(smoothing) <= 0):
            raise UserError(
                f"task.smoothing={smoothing} is not valid: it is two numbers above 0, such as [0.3,0.15], or null."
            )
        super().__init__()
        self.smoothing = smoothing
        # A tensor on the network's device, updated in place: a recorded CUDA graph reads its value at every replay.
        # float64, so that the products with it are rounded as with a Python number.
        self.sigma = torch.tensor(smoothing[0] if smoothing else 0.0, dtype=torch.float64)

    @property
    def paced(self) -> bool:
        """Whether there is a sigma, which falls over the training."""
        return self.smoothing is not None

    def at(self, model: nn.Module, share: float) -> None:
        """Sets sigma for the next step.

        Args:
            model: the network, for its device.
            share: share of the training that is done, 0 to 1.
        """
        if self.smoothing:
            device = next(model.parameters()).device
            if self.sigma.device != device:
                self.sigma = self.sigma.to(device)
            first, last = self.smoothing
            self.sigma.fill_(first + share * (last - first))

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """As `Classification.loss`; with `smoothing`, `warped` is at theta + noise and `theta` without noise.

        Raises:
            UserError: `smoothing` is set, and the network has no crops that can be moved.
        """
        if not self.smoothing:
            return super().loss(model, batch)
        if not isinstance(model, ReadsAnywhere):
            raise UserError(
                "task.smoothing moves the crops of parallel transformers on images, and this network has none: "
                "task.smoothing=null, or model=image_st_cnn."
            )
        images, labels = batch
        transformers = model.transformers
        shape = (len(images), transformers.count, transformers.transform.num_params)
        noise = self.sigma * torch.randn(shape, device=images.device)
        theta = model.locate(images)
        features, warped = model.describe(images, theta.detach() + noise)
        kept = model.draw_dropout(features)
        logits = model.classify(features, kept)
        with torch.no_grad():
            mirrored = model.classify(model.describe(images, theta - noise)[0], kept)
        loss, sums = self.counted(logits, labels)
        ahead = F.cross_entropy(logits.detach().float(), labels, reduction="none")
        behind = F.cross_entropy(mirrored.float(), labels, reduction="none")
        slope = (ahead - behind) / (2 * self.sigma**2)
        # The value of this term is 0; its gradient in theta is the estimate.
        estimate = (theta.float() * (slope[:, None, None] * noise).detach()).sum((1, 2)).mean()
        return loss + estimate - estimate.detach(), sums, {"theta": theta, "warped": warped}
