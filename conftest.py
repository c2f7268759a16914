"""For all tests and notebooks: results go to a folder of their own, and shapes and types of every call are checked."""

import os
import tempfile
from pathlib import Path

# Kernels that nbval starts inherit all of it.
FOLDER = Path(tempfile.mkdtemp(prefix="llmhw-test-"))
os.environ.setdefault("LLMHW_HOME", str(FOLDER))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["IPYTHONDIR"] = str(FOLDER / "ipython")

# In every kernel: whatever reaches for the network fails, on every machine, whether it has one or not.
OFFLINE = """
import sys

def _offline(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        address = arguments[1] if event == "socket.connect" else arguments
        host = address[0] if isinstance(address, tuple) else "localhost"  # else a path of this machine
        if host not in (None, "", "localhost", "127.0.0.1", "::1", "0.0.0.0"):
            raise OSError(f"the course works offline, and this cell asked for {host}")

sys.addaudithook(_offline)
"""
STARTUP = FOLDER / "ipython" / "profile_default" / "startup"
STARTUP.mkdir(parents=True)
(STARTUP / "00-offline.py").write_text(OFFLINE)

from beartype import BeartypeConf, beartype
from hypothesis import settings
from jaxtyping import install_import_hook

typechecked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int where a float is asked for is fine
install_import_hook("llmhw_helpers", "conftest.typechecked")

settings.register_profile("course", deadline=None)  # shared machines pause; a test's time is no property of the code
settings.load_profile("course")
