"""Data sets and distortions: pure functions of images and a torch.Generator."""
