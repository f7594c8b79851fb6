from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import save

from dinoscope.errors import (
    Cancelled,
    InputError,
    MissingWeightsError,
    ModelFileError,
    OutputError,
)
from dinoscope.models import fetch, hub
from dinoscope.models.adapter import add_lora
from dinoscope.models.backbone import build_backbone
from dinoscope.models.card import HeadSpec
from dinoscope.models.checkpoint import list_models, load_model, save_model
from dinoscope.models.registry import BackboneSpec, get_spec
from dinoscope.models.weights import fill_backbone
from dinoscope.types import Progress

NAME = "dinov2_vits14_reg"
OfficialState = Callable[..., dict[str, torch.Tensor]]


COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubStandIn:
    """Serves ``/<repo>/resolve/<revision>/<file>``: a redirect with the facts, to a storage host.

    Attributes
    ----------
    requests : list of (method, path, Range header)
        What was asked, in order.
    break_after : list of int
        Bytes after which the next transfers are cut off; one is used up by each transfer.
    """

    def __init__(self, content: bytes, repo: str, name: str = "model.safetensors") -> None:
        self.content = content
        self.names = {f"/{repo}/resolve/{revision}/{name}" for revision in ("main", COMMIT)}
        self.etag = hashlib.sha256(content).hexdigest()
        self.served = content
        self.requests: list[tuple[str, str, str]] = []
        self.break_after: list[int] = []
        self.ranges = True
        self.bytes_sent = 0
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:
                pass

            def do_HEAD(self) -> None:
                stand_in.answer(self, with_body=False)

            def do_GET(self) -> None:
                stand_in.answer(self, with_body=True)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, handler: BaseHTTPRequestHandler, *, with_body: bool) -> None:
        wanted = handler.headers.get("Range", "")
        self.requests.append((handler.command, handler.path, wanted))
        if handler.path == "/storage":
            self._send_file(handler, wanted, with_body=with_body)
        elif handler.path in self.names:
            handler.send_response(302)
            # Another host name, as the hub's storage is another host.
            handler.send_header("Location", f"http://localhost:{self.port}/storage")
            handler.send_header("X-Repo-Commit", COMMIT)
            handler.send_header("ETag", '"of-the-pointer-file"')
            handler.send_header("X-Linked-ETag", f'"{self.etag}"')
            handler.send_header("X-Linked-Size", str(len(self.content)))
            handler.send_header("Content-Length", "0")
            handler.end_headers()
        else:
            handler.send_response(404)
            handler.send_header("X-Error-Code", "RepoNotFound")
            handler.send_header("Content-Length", "0")
            handler.end_headers()

    def _send_file(self, handler: BaseHTTPRequestHandler, wanted: str, *, with_body: bool) -> None:
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranges else 0
        body = self.served[start:]
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(body)))
        if start:
            last = len(self.served) - 1
            handler.send_header("Content-Range", f"bytes {start}-{last}/{len(self.served)}")
        handler.end_headers()
        if with_body:
            part = body[: self.break_after.pop(0)] if self.break_after else body
            self.bytes_sent += len(part)
            handler.wfile.write(part)
            handler.wfile.flush()
            handler.close_connection = True


@pytest.fixture
def spec(
    shrunk: dict[str, BackboneSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> BackboneSpec:
    """A hub backbone whose weights are not on this disk."""
    monkeypatch.setenv("DINOSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(fetch, "PAUSE_S", 0.01)
    monkeypatch.setattr(fetch, "CHUNK_BYTES", 16 * 1024)
    return shrunk[NAME]


@pytest.fixture
def weights(spec: BackboneSpec, official_state: OfficialState) -> bytes:
    """The bytes of timm's file: random weights of the right names and shapes."""
    backbone = build_backbone(spec)
    fill_backbone(backbone, official_state(spec))
    return save(backbone.vit.state_dict())


@pytest.fixture
def server(
    spec: BackboneSpec, weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> Iterator[HubStandIn]:
    stand_in = HubStandIn(weights, str(spec.hub_repo))
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")
    monkeypatch.setenv("HF_ENDPOINT", stand_in.endpoint)
    yield stand_in
    stand_in.close()


def left_behind(spec: BackboneSpec) -> list[str]:
    return sorted(p.name for p in hub.weights_dir(spec).glob("*") if p.suffix != ".lock")


# --- the good way ---


def test_first_download_reports_progress_and_keeps_the_hubs_hash(
    server: HubStandIn, spec: BackboneSpec, weights: bytes
) -> None:
    seen: list[Progress] = []
    path = hub.download(spec, seen.append)
    assert path.read_bytes() == weights
    assert [p.done for p in seen] == sorted({p.done for p in seen})
    assert seen[-1].done == seen[-1].total == len(weights)
    assert spec.name in seen[-1].message
    receipt = json.loads(path.with_name("model.safetensors.json").read_text())
    assert receipt["sha256"] == hashlib.sha256(weights).hexdigest()
    assert receipt["revision"] == COMMIT
    assert receipt["source"] == f"{server.endpoint}/{spec.hub_repo}"
    assert left_behind(spec) == ["model.safetensors", "model.safetensors.json"]


def test_second_load_is_offline_with_no_request_at_all(
    server: HubStandIn, spec: BackboneSpec, official_state: OfficialState
) -> None:
    first = load_model(NAME, device="cpu", allow_download=True)
    assert [method for method, _, _ in server.requests][:1] == ["HEAD"]
    server.requests.clear()
    again = load_model(NAME, device="cpu", allow_download=True)
    assert server.requests == []
    server.close()
    offline = load_model(NAME, device="cpu")
    assert first.digest == again.digest == offline.digest
    expected = build_backbone(spec)
    fill_backbone(expected, official_state(spec))
    for name, tensor in expected.vit.state_dict().items():
        assert torch.equal(offline.backbone.vit.state_dict()[name], tensor)


def test_download_of_a_file_that_is_here_asks_nobody(
    server: HubStandIn, spec: BackboneSpec
) -> None:
    path = hub.download(spec)
    server.requests.clear()
    assert hub.download(spec) == path
    assert server.requests == []


def test_no_token_of_the_user_is_sent(
    server: HubStandIn, spec: BackboneSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    answer, seen = server.answer, []

    def note_headers(handler, *, with_body):  # type: ignore[no-untyped-def]
        seen.append(handler.headers.get("Authorization"))
        answer(handler, with_body=with_body)

    monkeypatch.setattr(server, "answer", note_headers)
    hub.download(spec)
    assert seen
    assert set(seen) == {None}


# --- interruptions ---


def test_cancelled_download_goes_on_where_it_stopped(
    server: HubStandIn, spec: BackboneSpec, weights: bytes
) -> None:
    def cancel(progress: Progress) -> None:
        raise Cancelled("stopped by the user")

    with pytest.raises(Cancelled):
        hub.download(spec, cancel)
    (part,) = hub.weights_dir(spec).glob("*.part")
    kept = part.stat().st_size
    assert 0 < kept < len(weights)
    assert hub.find_weights(spec) is None
    server.requests.clear()

    seen: list[Progress] = []
    path = hub.download(spec, seen.append)

    assert path.read_bytes() == weights
    assert ("GET", "/storage", f"bytes={kept}-") in server.requests
    assert seen[0].done > kept


def test_broken_connection_is_resumed_within_one_download(
    server: HubStandIn, spec: BackboneSpec, weights: bytes
) -> None:
    server.break_after = [100_000, 50_000, 0]
    assert hub.download(spec).read_bytes() == weights
    ranges = [wanted for _, path, wanted in server.requests if path == "/storage" and wanted]
    assert ranges == ["bytes=100000-", "bytes=150000-", "bytes=150000-"]
    assert server.bytes_sent == len(weights), "bytes were fetched twice"


def test_connection_that_keeps_breaking_is_given_up_and_the_part_kept(
    server: HubStandIn, spec: BackboneSpec, weights: bytes
) -> None:
    server.break_after = [100_000] + [0] * 10
    with pytest.raises(MissingWeightsError, match=r"broke off.*100000 bytes are kept"):
        hub.download(spec)
    server.break_after = []
    assert hub.download(spec).read_bytes() == weights
    assert server.bytes_sent == len(weights)


def test_server_without_ranges_starts_again_and_is_right(
    server: HubStandIn, spec: BackboneSpec, weights: bytes
) -> None:
    server.ranges = False
    server.break_after = [100_000]
    assert hub.download(spec).read_bytes() == weights


def test_part_of_another_revision_is_not_continued(
    server: HubStandIn, spec: BackboneSpec, weights: bytes
) -> None:
    folder = hub.weights_dir(spec)
    folder.mkdir(parents=True)
    (folder / "model.safetensors.0000000000000000.part").write_bytes(b"older revision")
    assert hub.download(spec).read_bytes() == weights


# --- what must be refused ---


def test_file_that_is_not_what_the_hub_names_is_refused_and_not_kept(
    server: HubStandIn, spec: BackboneSpec, weights: bytes
) -> None:
    server.served = weights[:-1] + bytes([weights[-1] ^ 1])
    with pytest.raises(ModelFileError, match=r"has SHA-256 .*which the hub names"):
        load_model(NAME, device="cpu", allow_download=True)
    assert left_behind(spec) == []
    server.served = weights
    assert hub.download(spec).read_bytes() == weights


def test_stored_file_that_changes_later_is_refused(server: HubStandIn, spec: BackboneSpec) -> None:
    path = hub.download(spec)
    load_model(NAME, device="cpu")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match="has changed since it was stored"):
        load_model(NAME, device="cpu")


def test_answer_without_a_sha256_is_refused(server: HubStandIn, spec: BackboneSpec) -> None:
    server.etag = "not-a-hash"
    with pytest.raises(MissingWeightsError, match=r"names no SHA-256 for it \(ETag 'not-a-hash'\)"):
        hub.download(spec)
    assert left_behind(spec) == []


def test_repository_that_is_not_there_is_said(server: HubStandIn, spec: BackboneSpec) -> None:
    server.names = set()
    with pytest.raises(MissingWeightsError, match="did not answer"):
        hub.download(spec)


def test_too_small_a_disk_is_said_before_anything_is_fetched(
    server: HubStandIn, spec: BackboneSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(OutputError, match="MB free; expected at least"):
        hub.download(spec)
    assert "/storage" not in {path for _, path, _ in server.requests}


def test_cache_folder_that_cannot_be_made_is_an_output_error(
    server: HubStandIn, spec: BackboneSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("DINOSCOPE_CACHE", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="DINOSCOPE_CACHE"):
        hub.download(spec)


def test_backbone_without_a_repository_cannot_be_downloaded() -> None:
    with pytest.raises(InputError, match="no hub repository"):
        hub.download(get_spec("tiny-test"))


# --- offline, and files carried in by hand ---


def test_offline_error_names_file_and_folder(
    spec: BackboneSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(MissingWeightsError) as caught:
        load_model(NAME, device="cpu", allow_download=True)
    text = str(caught.value)
    assert "http://127.0.0.1:9 did not answer" in text
    assert (
        f"model.safetensors or dinov2_vits14_reg4_pretrain.pth in {hub.weights_dir(spec)}" in text
    )
    assert "timm/vit_small_patch14_reg4_dinov2.lvd142m" in text
    assert "dinov2_vits14/dinov2_vits14_reg4_pretrain.pth" in text


def test_nothing_is_asked_of_the_hub_without_leave(server: HubStandIn, spec: BackboneSpec) -> None:
    with pytest.raises(
        MissingWeightsError, match=r"not on this disk; expected model.safetensors or"
    ):
        load_model(NAME, device="cpu")
    list_models()
    assert server.requests == []
    assert not hub.weights_dir(spec).exists()


def test_importing_contacts_nobody(server: HubStandIn) -> None:
    code = "import dinoscope.models.checkpoint as c; c.list_models()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    assert server.requests == []


@pytest.mark.parametrize(
    "name", ["dinov2_vits14_reg4_pretrain.pth", "model.safetensors", f"{NAME}.pth"]
)
def test_file_put_into_the_folder_by_hand_is_found_and_remembered(
    spec: BackboneSpec, weights: bytes, official_state: OfficialState, name: str
) -> None:
    path = hub.weights_dir(spec) / name
    path.parent.mkdir(parents=True)
    if path.suffix == ".pth":
        torch.save(official_state(spec), path)
    else:
        path.write_bytes(weights)
    model = load_model(NAME, device="cpu")
    assert model.card.backbone_hash == model.digest
    entry = next(e for e in list_models() if e["name"] == NAME)
    assert entry["available"]
    assert entry["where"] == str(path)
    torch.save(official_state(spec, seed=1), path)
    with pytest.raises(ModelFileError, match="has changed since it was stored"):
        load_model(NAME, device="cpu")


def test_weights_in_hugging_faces_own_cache_are_used_and_checked(
    spec: BackboneSpec, weights: bytes, tmp_path: Path
) -> None:
    repo = tmp_path / "hub-cache" / "models--timm--vit_small_patch14_reg4_dinov2.lvd142m"
    blob = repo / "blobs" / hashlib.sha256(weights).hexdigest()
    snapshot = repo / "snapshots" / COMMIT
    for folder in (blob.parent, snapshot, repo / "refs"):
        folder.mkdir(parents=True)
    (repo / "refs" / "main").write_text(COMMIT)
    blob.write_bytes(weights)
    (snapshot / "model.safetensors").symlink_to(blob)
    load_model(NAME, device="cpu")
    assert os.listdir(snapshot) == ["model.safetensors"]  # nothing of ours in there
    blob.write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(ModelFileError, match="has changed"):
        load_model(NAME, device="cpu")


def test_unreadable_receipt_is_said(server: HubStandIn, spec: BackboneSpec) -> None:
    path = hub.download(spec)
    path.with_name(path.name + ".json").write_text("{")
    with pytest.raises(ModelFileError, match=r"model.safetensors.json' cannot be read"):
        load_model(NAME, device="cpu")


# --- model files on a hub backbone ---


@pytest.fixture
def adapter_file(server: HubStandIn, tmp_path: Path) -> Path:
    """A model file that needs the backbone, which is then not on this disk any more."""
    model = load_model(NAME, device="cpu", allow_download=True)
    model.add_head("instance", HeadSpec("dense", 3))
    add_lora(model, rank=2, blocks=1)
    path = tmp_path / "sent" / "cells.dinoscope"
    save_model(model, path)
    stored = hub.find_weights(model.backbone.spec)
    assert stored is not None
    stored.unlink()
    stored.with_name(stored.name + ".json").unlink()
    server.requests.clear()
    return path


def test_model_file_without_its_backbone_names_it_and_downloads_it_when_allowed(
    adapter_file: Path, server: HubStandIn
) -> None:
    with pytest.raises(MissingWeightsError, match=r"'dinov2_vits14_reg' \(hash [0-9a-f]{16}…\)"):
        load_model(adapter_file, device="cpu")
    assert server.requests == []
    assert load_model(adapter_file, device="cpu", allow_download=True).lora is not None


def test_official_file_beside_the_model_file_is_used(
    adapter_file: Path, spec: BackboneSpec, official_state: OfficialState
) -> None:
    torch.save(official_state(spec), adapter_file.parent / str(spec.official_file))
    load_model(adapter_file, device="cpu")


def test_backbone_file_can_be_pointed_at(
    adapter_file: Path, spec: BackboneSpec, official_state: OfficialState, tmp_path: Path
) -> None:
    torch.save(official_state(spec), tmp_path / "mine.pth")
    load_model(adapter_file, device="cpu", backbone_file=tmp_path / "mine.pth")
    torch.save(official_state(spec, seed=1), tmp_path / "other.pth")
    with pytest.raises(ModelFileError, match="made for other weights of backbone"):
        load_model(adapter_file, device="cpu", backbone_file=tmp_path / "other.pth")
