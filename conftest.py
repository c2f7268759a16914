"""For all tests and notebooks: results go to a folder of their own, and shapes and types of every call are checked."""

import os
import tempfile

# Kernels that nbval starts inherit it, too.
os.environ.setdefault("LLMHW_HOME", tempfile.mkdtemp(prefix="llmhw-test-"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from beartype import BeartypeConf, beartype
from hypothesis import settings
from jaxtyping import install_import_hook

typechecked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int where a float is asked for is fine
install_import_hook("llmhw_helpers", "conftest.typechecked")

settings.register_profile("course", deadline=None)  # shared machines pause; a test's time is no property of the code
settings.load_profile("course")
