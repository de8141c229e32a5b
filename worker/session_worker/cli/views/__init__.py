"""How what operators see looks on a terminal."""
