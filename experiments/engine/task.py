"""Classification: the loss, the counting of errors, and what is logged of the transformers."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.engine.interfaces import Aux, Batch, Sums, Task
from stn import in_frame


class Classification(Task):
    """Softmax cross-entropy. Errors are counted over all images, never averaged over unequal batches.

    Args:
        label_smoothing: share of a target's weight that is spread evenly over all classes, in training only: from 0 to
            below 1 (Szegedy et al. 2016, section 7).

    Raises:
        ValueError: for another `label_smoothing`.
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"task.label_smoothing={label_smoothing} is not valid: it is from 0 to below 1.")
        self.label_smoothing = label_smoothing

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Sums, Aux]:
        """As `Task.loss`; the sums are `loss`, `errors` and `images`."""
        images, labels = batch
        logits, aux = model(images)
        return (*self.counted(logits, labels), aux)

    def counted(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Sums]:
        """Computes the loss and the sums.

        Args:
            logits: (B, classes).
            labels: (B,).
        """
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing)
        with torch.no_grad():
            sums = {
                "loss": loss.detach() * len(labels),
                "errors": (logits.argmax(1) != labels).sum(),
                "images": torch.full((), len(labels), device=loss.device),
            }
        return loss, sums

    @torch.no_grad()
    def watch(self, model: nn.Module, aux: Aux) -> dict[str, float]:
        """Describes the windows of each transformer k in a batch.

        Returns:
            `st{k}/in_frame`, the mean share of a window's sampling points that lie in the image, 0 to 1;
            `st{k}/out_of_frame_images`, the share of images of which a window shows nothing; mean and standard
            deviation of the first 8 numbers of theta. Empty for a network without transformers.
        """
        if "theta" not in aux:
            return {}
        out: dict[str, float] = {}
        transformers: Any = model.transformers
        transform = transformers.transform
        for k in range(transformers.count):
            theta = aux["theta"][:, k].float()  # (B, P)
            shares = in_frame(transform.grid(theta, aux["warped"].shape[3:]))
            out[f"st{k}/in_frame"] = shares.mean().item()
            out[f"st{k}/out_of_frame_images"] = (shares == 0).float().mean().item()
            for p in range(min(theta.shape[1], 8)):
                out[f"st{k}/theta_{p}_mean"] = theta[:, p].mean().item()
                out[f"st{k}/theta_{p}_std"] = theta[:, p].std(correction=0).item()
        return out

    @torch.inference_mode()
    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> tuple[dict[str, float], Tensor]:
        """As `Task.evaluate`: `error` in percent and mean `loss`; the predictions are classes (N,)."""
        model.eval()
        predictions, errors, loss, count = [], 0, 0.0, 0
        for images, labels in batches:
            logits, _ = model(images)
            predicted = logits.argmax(1)
            predictions.append(predicted.cpu())
            errors += int((predicted != labels).sum())
            loss += float(F.cross_entropy(logits.float(), labels, reduction="sum"))
            count += len(labels)
        model.train()
        return {"error": 100 * errors / count, "loss": loss / count}, torch.cat(predictions)
