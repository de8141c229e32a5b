"""Property tests are repeatable in CI and explore elsewhere; none has a deadline on a shared machine."""

import os

from hypothesis import settings

settings.register_profile("unit", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("unit")
