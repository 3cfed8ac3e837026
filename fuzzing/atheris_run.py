"""One target under atheris, with libFuzzer's own arguments: started by `python -m fuzzing`."""

import sys

try:
    import atheris
except ImportError:
    sys.exit("error: atheris is not installed (Linux on x86-64 only); `make test` fuzzes with Hypothesis")

# What is watched for new paths; compiled code cannot be.
with atheris.instrument_imports(
    include=["pix2pix", "zipfile", "tarfile", "gzip", "PIL", "ruamel"], enable_loader_override=False
):
    from fuzzing.targets import TARGETS

name = sys.argv.pop(1)
atheris.Setup(sys.argv, TARGETS[name].run)
atheris.Fuzz()
