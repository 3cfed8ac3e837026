"""What a consumer gets: the ONNX file and card of a registered version, checked by digest and cached.

What an address stood for is remembered, so that what was pulled once is there when the server is not.
"""

import json
import logging
import shutil
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pix2pix.errors import UserError
from pix2pix.files import atomic_file, cached_model, sha256_file, sha256_json, user_cache, write_text

from . import tracking

log = logging.getLogger(__name__)

MODEL_FILE, CARD_FILE = "generator.onnx", "model_card.md"


@dataclass(frozen=True)
class Delivered:
    """A version, and what it was at the time that it was asked for.

    Attributes:
        onnx_sha256: of the file in the cache.
        card: Markdown; empty where the version has none.
        at: UTC, when the registry said so.
    """

    name: str
    version: str
    onnx_sha256: str
    card: str
    at: str

    @property
    def onnx(self) -> Path:
        """The file in the cache."""
        return cached_model(self.onnx_sha256)


def pull(uri: str) -> Path:
    """The ONNX file that `models:/NAME@ALIAS` or `models:/NAME/VERSION` stands for, in the cache.

    Raises:
        UserError: as `deliver`.
    """
    return deliver(uri).onnx


def deliver(uri: str) -> Delivered:
    """The version that an address stands for, its file in the cache.

    Where the server does not answer it is the version that the address stood for when it last did, and a
    warning says so.

    Raises:
        UserError: the store has no such model, alias or version, its file is not the registered one, or the
            store cannot be reached and the address was never pulled.
    """
    name, separator, which = _split_uri(uri)
    tracking.refuse_missing(uri)
    try:
        delivered = _ask(uri, name, separator, which)
    except tracking.Unreachable as error:
        remembered = _remembered(uri)
        if remembered is None:
            raise
        log.warning(
            "%s; taking version %s of %s from the cache, which %s was at %s",
            str(error).partition(";")[0],
            remembered.version,
            remembered.name,
            uri,
            remembered.at,
        )
        return remembered
    _remember(uri, delivered)
    return delivered


def hand_over(delivered: Delivered, folder: Path | None) -> list[Path]:
    """Write the file and the card into a folder, or the card beside the file in the cache; return the paths.

    Raises:
        UserError: the folder cannot be written.
    """
    onnx, card = delivered.onnx, delivered.onnx.with_suffix(".md")
    if folder is not None:
        onnx, card = folder / MODEL_FILE, folder / CARD_FILE
        with atomic_file(onnx) as partial:
            shutil.copyfile(delivered.onnx, partial)
    if not delivered.card:
        return [onnx]
    write_text(card, delivered.card)
    return [onnx, card]


def _ask(uri: str, name: str, separator: str, which: str) -> Delivered:
    from mlflow.exceptions import MlflowException

    with tracking.reachable() as mlflow:
        client = mlflow.MlflowClient()
        try:
            if separator == "@":
                version = client.get_model_version_by_alias(name, which)
            else:
                version = client.get_model_version(name, which)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            raise UserError(f"{uri}: {_what_there_is(client, name, which)}") from None
        digest = version.tags.get("onnx_sha256", "")
        if not (digest and _is_whole(digest)):
            digest = _download(mlflow, f"models:/{name}/{version.version}", digest)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return Delivered(name, str(version.version), digest, version.description or "", now)


def _is_whole(onnx_sha256: str) -> bool:
    cached = cached_model(onnx_sha256)
    return cached.is_file() and sha256_file(cached) == onnx_sha256


def _split_uri(uri: str) -> tuple[str, str, str]:
    rest = uri.removeprefix("models:/")
    for separator in ("@", "/"):
        name, found, which = rest.partition(separator)
        if uri.startswith("models:/") and name and found and which:
            if separator == "/" and which.isdecimal() and len(which) > 9:
                # More than a database's number holds, which it does not say in a line.
                raise UserError(f"{uri}: there is no such version")
            return name, found, which
    raise UserError(
        f"{uri}: is not a model; expected models:/NAME@ALIAS, models:/NAME/VERSION or a file.onnx"
    )


def _what_there_is(client: Any, name: str, which: str) -> str:
    models = {model.name: model for model in client.search_registered_models()}
    if name not in models:
        known = ", ".join(sorted(models)) or "none yet; `make repro` registers one"
        return f"no model {name} in {tracking.store_name()}; models there: {known}"
    aliases = ", ".join(f"@{alias} (version {version})" for alias, version in models[name].aliases.items())
    found = f"{name} has no {which}; it has {aliases or 'versions without an alias'}"
    # The champion is what is taken where nobody said which.
    is_default = which == "champion" and "challenger" in models[name].aliases
    return f"{found}; --model models:/{name}@challenger takes that one" if is_default else found


def _download(mlflow: Any, uri: str, digest: str) -> str:
    """Fetch the one ONNX file of a version into the cache; return its digest, which is `digest` if given."""
    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory() as folder:
        try:
            local = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder))
        except (MlflowException, OSError) as error:
            raise UserError(
                f"{uri}: its file cannot be fetched from {tracking.store_name()} ({tracking.reason(error)})"
            ) from error
        files = sorted(local.rglob("*.onnx"))
        if digest and not files:
            raise UserError(
                f"{uri}: its file is gone from the store; delete the version and register it anew"
            )
        if len(files) != 1:
            raise UserError(
                f"{uri}: holds {len(files)} ONNX files, expected one; was it registered by this project?"
            )
        found = sha256_file(files[0])
        if digest and found != digest:
            raise UserError(f"{uri}: its file has SHA-256 {found}, registered was {digest}; do not use it")
        with atomic_file(cached_model(found)) as partial:
            shutil.copyfile(files[0], partial)
    return found


# --- what an address stood for -----------------------------------------------------------------------


def _memory(uri: str) -> Path:
    """A file for each store and address."""
    return user_cache("models") / f"{sha256_json([tracking.store_name(), uri])[:32]}.json"


def _remember(uri: str, delivered: Delivered) -> None:
    record = asdict(delivered)
    # A cache that can be read only still serves; it only cannot help without the server.
    with suppress(UserError, OSError):
        write_text(_memory(uri), json.dumps({**record, "sha256": sha256_json(record)}, ensure_ascii=False))


def _remembered(uri: str) -> Delivered | None:
    """The last answer, where it and the file are as they were written."""
    try:
        record = json.loads(_memory(uri).read_text(encoding="utf-8"))
        digest = record.pop("sha256")
        if sha256_json(record) != digest:
            return None
        delivered = Delivered(**record)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return delivered if _is_whole(delivered.onnx_sha256) else None
