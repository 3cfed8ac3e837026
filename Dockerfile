# docker build -t pix2pix-worker .                      the worker: every stage, the flow, the pix2pix command
# docker build -t pix2pix-servers --target servers .    MLflow and Prefect at the worker's versions, no torch
#
# Build it in a clone, not in a linked worktree: the image holds the commit it was built from, since dvc needs a
# git repository and a run names its commit.

# The Python and the Debian that the test suite runs on. Pin a digest with
# --build-arg BASE_IMAGE=python@sha256:…; any Debian with Python ≥ 3.11 as `python` does.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS uv
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
RUN pip install --no-cache-dir uv==0.13.9

# Dependencies apart from the code: a new commit moves megabytes, not gigabytes.
FROM uv AS worker-dependencies
# An index with another build of torch, PyTorch's for CPUs for instance, is given as PIP_EXTRA_INDEX_URL.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
WORKDIR /build
COPY pyproject.toml requirements.lock ./
RUN python -m venv --without-pip /opt/venv \
    && UV_DEFAULT_INDEX="$PIP_INDEX_URL" UV_EXTRA_INDEX_URL="$PIP_EXTRA_INDEX_URL" \
       UV_INDEX_STRATEGY=unsafe-best-match \
       uv pip install --no-cache --compile-bytecode --python /opt/venv/bin/python \
       --constraint requirements.lock --requirement pyproject.toml --extra team

FROM uv AS servers-dependencies
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
WORKDIR /build
COPY requirements.lock ./
RUN python -m venv --without-pip /opt/venv \
    && UV_DEFAULT_INDEX="$PIP_INDEX_URL" UV_EXTRA_INDEX_URL="$PIP_EXTRA_INDEX_URL" \
       UV_INDEX_STRATEGY=unsafe-best-match \
       uv pip install --no-cache --compile-bytecode --python /opt/venv/bin/python \
       --constraint requirements.lock mlflow prefect psycopg2-binary boto3

FROM ${BASE_IMAGE} AS base
# compose.yaml may run a container as the owner of the checkout, whoever that is: so these two are anybody's, and
# the user's name is said where no such user exists. A named volume takes its owner and mode from here.
RUN useradd --uid 1000 --create-home pix2pix \
    && mkdir -p /cache /home/pix2pix/.prefect \
    && chown -R pix2pix /cache /home/pix2pix \
    && chmod 1777 /cache /home/pix2pix /home/pix2pix/.prefect
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/home/pix2pix \
    LOGNAME=pix2pix \
    PYTHONUNBUFFERED=1 \
    DO_NOT_TRACK=true \
    DVC_NO_ANALYTICS=1 \
    MLFLOW_DISABLE_TELEMETRY=true \
    PREFECT_SERVER_ANALYTICS_ENABLED=false

FROM base AS servers
COPY --from=servers-dependencies /opt/venv /opt/venv
# Prefect writes its pages out before it serves them, and by default beside its code, which is not this user's.
ENV PREFECT_UI_STATIC_DIRECTORY=/home/pix2pix/ui
WORKDIR /home/pix2pix
USER 1000

FROM base AS worker
# git at the version that Debian's security updates give.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/* \
    # The checkout may belong to another user than the one this runs as, who may have no name to commit under.
    && git config --system safe.directory '*' \
    && git config --system user.name "pix2pix worker" \
    && git config --system user.email worker@pix2pix.invalid
COPY --from=worker-dependencies /opt/venv /opt/venv
WORKDIR /project
COPY --chown=pix2pix . .
# Editable, so that a checkout mounted at /project is the code that runs.
RUN --mount=type=bind,from=uv,source=/usr/local/bin/uv,target=/usr/local/bin/uv \
    uv pip install --no-cache --no-deps --no-build-isolation --python /opt/venv/bin/python --editable . \
    && chown pix2pix /project
ENV PIX2PIX_CACHE=/cache \
    # What the container toolkit of a GPU machine is to bring in.
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000
# Anything else than the worker (`dvc repro`, `pix2pix …`) is healthy as long as it runs.
HEALTHCHECK --interval=30s --timeout=10s --start-period=90s \
    CMD ["python", "/project/team/healthy.py"]
CMD ["prefect", "worker", "start", "--pool", "pix2pix", "--type", "process", "--with-healthcheck"]
