"""The paper's experiments: what knows the paper, a configuration, a run directory or a tracker."""
