"""Runs an app in tests, without broker and server."""
