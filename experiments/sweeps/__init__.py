"""Many runs: planned, trained one beside the other, searched and published."""
