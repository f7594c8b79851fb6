"""Which encoder computes a model's tokens: asked for by hand, or the fastest measured here.

A compiled runtime is built in a thread from a merged copy of the weights; until it is ready, and
whenever its tokens differ from PyTorch's, PyTorch computes. Adapters that change are noticed by the
weights themselves and make a new build.
"""

from __future__ import annotations

import threading
import time
import weakref
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from dinoscope.errors import DinoscopeError
from dinoscope.models.device import torch
from dinoscope.models.model import Model, with_layers
from dinoscope.models.precision import LEAST_COSINE, sample_tile
from dinoscope.models.runtime import records
from dinoscope.models.runtime.engines import (
    COMPILED,
    Encoder,
    build,
    installed,
    require,
    torch_encoder,
)
from dinoscope.models.runtime.packed import PackedVit
from dinoscope.models.weights import weights_stamp

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dinoscope.models.backbone import FeatureMap

#: A compiled runtime has to be this much faster before `auto` takes it.
WORTH = 0.9
#: Rounds of a calibration; each runtime encodes one tile in each.
ROUNDS = 3
#: Tile of a calibration, in pixels, cut to whole patches.
TILE_PX = 518


@dataclass
class _Built:
    """What was built of one backbone's weights."""

    stamp: tuple[Any, ...]
    encoders: dict[tuple[Any, ...], Encoder] = field(default_factory=dict)
    refused: dict[tuple[Any, ...], str] = field(default_factory=dict)
    threads: dict[tuple[Any, ...], threading.Thread] = field(default_factory=dict)
    encode_s: float = 0.0


_built: weakref.WeakKeyDictionary[nn.Module, _Built] = weakref.WeakKeyDictionary()
_lock = threading.RLock()


def _entry(model: Model) -> _Built:
    stamp = weights_stamp(model.backbone)
    with _lock:
        found = _built.get(model.backbone)
        if found is None or found.stamp != stamp:
            found = _built[model.backbone] = _Built(stamp)
        return found


@dataclass
class Engine:
    """The encoder in use for one model; may change between planes, never within one.

    Parameters
    ----------
    model : Model
        On `device` already.
    device, dtype
        Where and in which precision PyTorch computes.
    choice : str
        ``auto``, ``torch``, ``compile`` (PyTorch through ``torch.compile``), ``openvino`` or
        ``onnxruntime``.
    threads : int
        CPU threads.
    wait : bool
        Wait for a runtime that was asked for by hand; else PyTorch computes until it is built.
    patience_s : float
        Seconds that PyTorch has encoded before `auto` builds, or measures, anything.
    layers : tuple of int, optional
        Blocks whose tokens are returned instead of the model's own; by PyTorch only.
    """

    model: Model
    device: str
    dtype: torch.dtype | None
    choice: str = "torch"
    threads: int = 1
    wait: bool = True
    patience_s: float = 5.0
    layers: tuple[int, ...] | None = None
    notes: list[str] = field(default_factory=list)
    encoder: Encoder = field(init=False)
    _entry: _Built = field(init=False, repr=False)

    def __post_init__(self) -> None:
        require(self.choice, self.device)
        # There before anything is started in a thread, which may ask for it.
        self.encoder = self._torch(_entry(self.model))
        self.refresh()

    def encode(self, x: Tensor) -> FeatureMap:
        """Tokens of ``(B, 3, Y, X)`` by the encoder in use."""
        entry = _entry(self.model)
        if entry is not self._entry:  # an adapter was changed
            self.refresh()
        begun = time.perf_counter()
        features = self._compile_or_not(x) if self.choice == "compile" else self.encoder.encode(x)
        entry.encode_s += time.perf_counter() - begun
        return features

    def refresh(self) -> None:
        """Use the wanted encoder if it is ready by now; to be called between planes."""
        entry = self._entry = _entry(self.model)
        wanted = self._wanted(entry)
        if wanted == "compile":
            self.encoder = self._torch(entry, compiled=("compile",) not in entry.refused)
            return
        if wanted != "torch":
            key = (wanted, self.device, self.threads)
            found = self._compiled(entry, wanted, key)
            if found is not None:
                self.encoder = found
                return
            if key in entry.refused and entry.refused[key] not in self.notes:
                self.notes.append(entry.refused[key])
        self.encoder = self._torch(entry)

    def _torch(self, entry: _Built, *, compiled: bool = False) -> Encoder:
        own = ("compile" if compiled else "torch", self.device, self.dtype)
        with _lock:
            if own not in entry.encoders:
                entry.encoders[own] = torch_encoder(
                    self.model, self.device, self.dtype, compiled=compiled
                )
            found = entry.encoders[own]
        if self.layers is None or self.layers == tuple(self.model.backbone.layers):
            return found
        if isinstance(found.encode, PackedVit):
            return replace(found, encode=found.encode.at(self.layers))
        return torch_encoder(with_layers(self.model, self.layers), self.device, self.dtype)

    def _compile_or_not(self, x: Tensor) -> FeatureMap:
        """`encode` of the compiled encoder; where it cannot be compiled here, of the plain one."""
        try:
            return self.encoder.encode(x)
        except Exception as error:
            entry = self._entry
            if (
                isinstance(error, (MemoryError, torch.OutOfMemoryError))
                or self.encoder.runtime != "compile"
            ):
                raise
            lines = str(error).strip().splitlines() or [""]
            note = (
                f"torch.compile cannot compile this backbone here ({type(error).__name__}: "
                f"{lines[0][:160]}), so PyTorch computes without it."
            )
            entry.refused[("compile",)] = note
            self.notes.append(note)
            self.encoder = self._torch(entry)
            return self.encoder.encode(x)

    def _wanted(self, entry: _Built) -> str:
        if self.choice != "auto":
            return self.choice
        if self.device != "cpu" or not any(installed(r) for r in COMPILED):
            return "torch"
        record = records.read(self._record())
        ready = any(k[0] in COMPILED for k in entry.encoders)
        if entry.encode_s < self.patience_s and not ready:
            return "torch"
        if record is None:
            self._start(entry, ("calibration",), self._calibrate)
            return "torch"
        best = str(record["best"])
        return best if best in COMPILED and installed(best) else "torch"

    def _record(self) -> str:
        spec = self.model.backbone.spec
        return records.key(f"{spec.name} {spec.embed_dim}x{spec.depth} {self.dtype}", self.threads)

    def _compiled(self, entry: _Built, runtime: str, key: tuple[Any, ...]) -> Encoder | None:
        if key in entry.encoders or key in entry.refused:
            return entry.encoders.get(key)
        thread = self._start(entry, key, lambda: self._build(entry, runtime, key))
        if self.wait and self.choice != "auto":
            thread.join()
        return entry.encoders.get(key)

    def _start(self, entry: _Built, key: tuple[Any, ...], work: Any) -> threading.Thread:
        with _lock:
            if key not in entry.threads:
                # Not a daemon: a process that ends while C++ code is building would crash.
                thread = threading.Thread(target=work, name=f"dinoscope {key[0]}")
                entry.threads[key] = thread
                thread.start()
            return entry.threads[key]

    def _build(self, entry: _Built, runtime: str, key: tuple[Any, ...]) -> None:
        title = COMPILED[runtime][2]
        try:
            encoder = build(self.model, runtime, self.device, self.threads)
            cosine = agreement(self.model, encoder, self.device)
        except DinoscopeError as error:
            entry.refused[key] = f"{error} PyTorch is used."
        except Exception as error:  # whatever a runtime meets, PyTorch goes on
            entry.refused[key] = (
                f"{title} cannot run this backbone ({type(error).__name__}: "
                f"{str(error).strip().splitlines()[0][:200] if str(error) else ''}), so PyTorch is "
                "used."
            )
        else:
            if cosine < LEAST_COSINE:
                entry.refused[key] = (
                    f"{title}'s tokens differ from PyTorch's (cosine {cosine:.4f}, at least "
                    f"{LEAST_COSINE} is needed), so PyTorch is used."
                )
            else:
                entry.encoders[key] = encoder

    def _calibrate(self) -> None:
        """Time one tile with everything installed, in turns, and keep the answer."""
        entry = _entry(self.model)
        encoders = {"torch": self.encoder}
        for runtime in COMPILED:
            key = (runtime, self.device, self.threads)
            if not threading.main_thread().is_alive():
                return  # the program has ended: nobody needs the answer
            if installed(runtime):
                self._build(entry, runtime, key)
                if key in entry.encoders:
                    encoders[runtime] = entry.encoders[key]
        if not threading.main_thread().is_alive():
            return
        seconds = time_encoders(encoders, self.model)
        best = min(seconds, key=lambda name: seconds[name])
        if seconds[best] > WORTH * seconds["torch"]:
            best = "torch"
        for runtime in COMPILED:  # the others' memory goes back
            if runtime != best:
                entry.encoders.pop((runtime, self.device, self.threads), None)
        shown = {name: round(1000 * s, 2) for name, s in seconds.items()}
        notes = {k[0]: note for k, note in entry.refused.items()}
        records.write(self._record(), {"best": best, "tile_ms": shown, "refused": notes})


def agreement(model: Model, encoder: Encoder, device: str) -> float:
    """Mean cosine between an encoder's tokens of one tile and PyTorch's in float32."""
    with torch.inference_mode():
        tile = sample_tile(model.backbone.patch).to(device)
        exact, found = model.encode(tile), encoder.encode(tile)
        pairs = ((exact.patch_tokens, found.patch_tokens), (exact.cls_token, found.cls_token))
        cosines = [
            torch.nn.functional.cosine_similarity(a.float(), b.float(), dim=1).mean()
            for a, b in pairs
        ]
    return float(torch.nan_to_num(torch.stack(cosines), nan=0.0).min())


def time_encoders(
    encoders: dict[str, Encoder], model: Model, *, side: int = TILE_PX, rounds: int = ROUNDS
) -> dict[str, float]:
    """Seconds of one tile, the best of a few rounds in which all take their turn."""
    side = side // model.backbone.patch * model.backbone.patch
    device = next(model.parameters()).device
    times: dict[str, list[float]] = {name: [] for name in encoders}
    with torch.inference_mode():
        tile = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)
        for encoder in encoders.values():
            encoder.encode(tile)  # the first of a size prepares buffers
        for _ in range(rounds):
            for name, encoder in encoders.items():
                begun = time.perf_counter()
                encoder.encode(tile)
                times[name].append(time.perf_counter() - begun)
    return {name: min(values) for name, values in times.items()}
