"""What is counted: errors over images, never over batches; and what is watched of the transformers."""

import pytest
import torch
from torch import nn

import stn
from experiments.engine.compute import Compute
from experiments.engine.loop import Cadence, Observer, Training, train
from experiments.engine.task import Classification
from stn.models.mnist import st_fcn


class Says(nn.Module):
    """Predicts the class that stands in the image's first pixel."""

    def forward(self, images):
        return nn.functional.one_hot(images[:, 0, 0, 0].long(), 10).float() * 9, {}


def test_errors_are_counted_over_unequal_batches():
    images = torch.zeros(7, 1, 2, 2)
    labels = torch.tensor([0, 0, 0, 0, 0, 0, 1])  # one error, alone in the last batch
    batches = list(zip(images.split(6), labels.split(6), strict=True))
    metrics, predictions = Classification().evaluate(Says(), batches)
    assert metrics["error"] == pytest.approx(100 / 7)  # a mean over batches would say 50
    assert predictions.tolist() == [0] * 7
    whole, _ = Classification().evaluate(Says(), [(images, labels)])
    assert metrics["loss"] == pytest.approx(whole["loss"])


def test_smoothed_labels_are_a_mixture_with_the_uniform_law_and_for_training_only():
    logits, labels = torch.randn(5, 10, generator=torch.Generator().manual_seed(0)), torch.arange(5)
    loss, sums = Classification(label_smoothing=0.2).counted(logits, labels)
    target = 0.8 * nn.functional.one_hot(labels, 10) + 0.02
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(sums["loss"], 5 * expected)
    images = torch.zeros(2, 1, 2, 2)
    batches = [(images, torch.tensor([0, 1]))]
    plain, _ = Classification().evaluate(Says(), batches)
    assert Classification(label_smoothing=0.2).evaluate(Says(), batches)[0] == plain


def test_label_smoothing_is_a_share():
    with pytest.raises(ValueError, match="label_smoothing=1"):
        Classification(label_smoothing=1.0)


def test_evaluation_leaves_the_model_training_and_without_gradients():
    model = st_fcn((1, 28, 28), transform=stn.Affine(), width=4)
    model.train()
    Classification().evaluate(model, [(torch.rand(3, 1, 28, 28), torch.tensor([0, 1, 2]))])
    assert model.training
    assert all(p.grad is None for p in model.parameters())


def test_watch_sees_windows_that_left_the_image():
    model = st_fcn((1, 28, 28), transform=stn.Affine(), width=4)
    with torch.no_grad():
        model.transformers.networks[0].head.bias[2] = 5.0
    images = torch.rand(4, 1, 28, 28)
    numbers = Classification().watch(model, model(images)[1])
    assert numbers["st0/in_frame"] == 0
    assert numbers["st0/out_of_frame_images"] == 1
    assert numbers["st0/theta_2_mean"] == pytest.approx(5.0)
    assert numbers["st0/theta_2_std"] == pytest.approx(0.0, abs=1e-6)
    assert Classification().watch(Says(), {}) == {}


def test_the_loop_steps_the_schedule_and_logs_means_over_images():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 10))
    classifier = type("M", (nn.Module,), {"forward": lambda self, x: (self.net(x), {})})()
    classifier.net = model
    optimizer = torch.optim.SGD(classifier.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.1)

    class Stream:
        drawn = 0

        def next_batch(self):
            Stream.drawn += 1
            return torch.rand(5, 1, 2, 2), torch.arange(5)

    class Recorder(Observer):
        def __init__(self):
            self.logged, self.saved, self.snapshots = [], [], []

        def log(self, step, metrics):
            self.logged.append((step, metrics))

        def validate(self, step):
            return {"val/error": 1.0}

        def checkpoint(self):
            self.saved.append(Stream.drawn)

        def snapshot(self, step):
            self.snapshots.append((step, Stream.drawn))

    recorder, compute = Recorder(), Compute(torch.device("cpu"), "fp32")
    train(
        Training(classifier, Classification(), optimizer, schedule, Stream(), compute),
        Cadence(iterations=5, log_every=2, checkpoint_every=4, val_every=4, snapshot_every=2),
        recorder,
    )
    logged = recorder.logged
    assert Stream.drawn == 5
    assert [step for step, _ in logged] == [2, 4, 5]
    assert recorder.saved == [4, 5]
    assert recorder.snapshots == [(0, 0), (2, 2), (4, 4)]
    assert [numbers["lr"] for _, numbers in logged] == pytest.approx([0.1, 0.01, 0.01])
    assert ["val/error" in numbers for _, numbers in logged] == [False, True, True]
    assert all(0 <= numbers["train/error"] <= 100 for _, numbers in logged)
