"""Fuzzing: `targets.py` says what must hold, `__main__.py` drives it, `test_corpus.py` has known nasties."""
