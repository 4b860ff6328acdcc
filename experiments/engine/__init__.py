"""From a configuration to a result. No experiment's name stands in here."""
