"""For all tests and notebooks: results go to a folder of their own, and shapes and types of every call are checked."""

import atexit
import os
import shutil
import signal
import tempfile
from pathlib import Path

# A folder of its own, whatever LLMHW_HOME the user has set: tests must not write into anybody's ledger. Kernels that
# nbval starts and xdist's processes inherit all of it. LLMHW_TEST_HOME keeps the results, as a job's report does.
if "LLMHW_TEST_HOME" not in os.environ:
    os.environ["LLMHW_TEST_HOME"] = tempfile.mkdtemp(prefix="llmhw-test-")
    atexit.register(shutil.rmtree, os.environ["LLMHW_TEST_HOME"], ignore_errors=True)
os.environ["LLMHW_HOME"] = os.environ["LLMHW_TEST_HOME"]
FOLDER = Path(os.environ["LLMHW_TEST_HOME"])
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the package does, but tests may import torch before it
os.environ["IPYTHONDIR"] = str(FOLDER / "ipython")
# A job in the background ignores interrupts, and so would all that it starts; tests send some.
signal.signal(signal.SIGINT, signal.default_int_handler)

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
STARTUP.mkdir(parents=True, exist_ok=True)
(STARTUP / "00-offline.py").write_text(OFFLINE)

from beartype import BeartypeConf, beartype
from beartype.claw import beartype_packages
from hypothesis import settings
from jaxtyping import install_import_hook

# An int where a float is asked for is fine. To check shapes takes ten times as long: only in rooms that name some.
checks = BeartypeConf(is_pep484_tower=True, claw_is_pep526=False, violation_type=TypeError)
typechecked = beartype(conf=checks)
rooms = {True: [], False: []}
root = Path(__file__).parent
for path in sorted((root / "llmhw_helpers").rglob("[!_]*.py")):
    name = ".".join(path.relative_to(root).with_suffix("").parts)
    rooms["jaxtyping" in path.read_text(encoding="utf-8")].append(name)
install_import_hook(rooms[True], "conftest.typechecked")
beartype_packages(rooms[False], conf=checks)

settings.register_profile("course", deadline=None)  # shared machines pause; a test's time is no property of the code
settings.load_profile("course")
