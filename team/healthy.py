"""The image's health check: does the worker poll? Any other command is well as long as it runs."""

import os
import sys
import urllib.request
from pathlib import Path

FIRST_PROCESS = Path(sys.argv[1] if len(sys.argv) > 1 else "/proc/1/cmdline")

if b"worker\0start" in FIRST_PROCESS.read_bytes():
    port = os.environ.get("PREFECT_WORKER_WEBSERVER_PORT", "8080")
    # Any other answer than 200 raises.
    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=8)
