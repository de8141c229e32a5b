"""Events, and those who listen to them: log, metrics, traces."""
