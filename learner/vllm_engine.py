"""The receiver inside vLLM: a weight-transfer engine named "firesteel" that stages broadcasts beside the model and applies them in one go.

vLLM loads this module through the entry point `vllm.general_plugins`; `register` only adds a name to vLLM's table. Each worker of an engine is a
receiver of its own: its thread takes part in every broadcast while the model samples, and `receive_weights` swaps a staged version, or one of the
version log, into the live model between two steps, after its names were checked. The one module of `learner` that imports vLLM; it knows no Ray.
"""

import contextlib
import logging
import multiprocessing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import torch
from vllm.distributed.parallel_state import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size
from vllm.distributed.weight_transfer import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import WeightTransferEngine, WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from learner import version_log
from learner.weight_group import Backend
from learner.weight_protocol import REFUSED, receiver_names
from learner.weight_receiver import WeightReceiver
from rlvr.errors import BroadcastError
from rlvr.records import Version

ENGINE_NAME = "firesteel"
RANDOM_LETTERS = 8
RELOAD_LOGGER = "vllm.model_executor.model_loader.reload.layerwise"


@dataclass
class InitInfo(WeightTransferInitInfo):
    """Where the sender's store is, and which generator this engine belongs to."""

    host: str
    port: int
    generator: str
    backend: Backend
    deadline_s: float


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):
    """Which version becomes the model's, as `lineage.step`: the staged one, or the one in `file`, a local file of the version log."""

    version: str
    file: str = ""


class StagedWeights(WeightTransferEngine[InitInfo, UpdateInfo]):
    """One worker's receiver and the model that it serves."""

    init_info_cls = InitInfo
    update_info_cls = UpdateInfo
    supports_draft_weight_update = False

    def __init__(self, config: Any, vllm_config: Any, device: torch.device, model: torch.nn.Module) -> None:
        super().__init__(config, vllm_config, device, model)
        self._receiver: WeightReceiver | None = None

    def init_transfer_engine(self, init_info: InitInfo) -> None:
        """Start to receive; asked again, leave the old sender for the new one."""
        self.shutdown()
        size = get_tensor_model_parallel_world_size()
        self._receiver = WeightReceiver(
            (init_info.host, init_info.port),
            receiver_names(init_info.generator, tensor_parallel=size)[get_tensor_model_parallel_rank()],
            backend=init_info.backend,
            deadline_s=init_info.deadline_s,
            device=self.device,
        )

    def start_weight_update(self) -> None:
        """Nothing: the model is touched only after the version was checked."""

    def receive_weights(self, update_info: UpdateInfo) -> None:
        """Swap a version in. Raises BroadcastError with REFUSED when it is not staged, or its file is not whole, or it does not fit the model."""
        version = Version.parse(update_info.version)
        try:
            tensors = self._read(version, update_info.file) if update_info.file else self._take(version)
        except BroadcastError as error:
            raise BroadcastError(f"{REFUSED}: {error}") from error
        check_fit(self.model, self._is_tied, tensors)
        initialize_layerwise_reload(self.model)
        model: Any = self.model  # every model of vLLM has load_weights
        model.load_weights(tensors.items())
        with self._quiet_about_tied_head():
            finalize_layerwise_reload(self.model, self.model_config)
        if self._is_tied:
            repack_tied_head(self.model, self.device)

    def finish_weight_update(self) -> None:
        """Nothing: `receive_weights` finished it."""

    def shutdown(self) -> None:
        """End the receiver's thread."""
        if self._receiver is not None:
            self._receiver.close()
            self._receiver = None

    def _take(self, version: Version) -> dict[str, torch.Tensor]:
        if self._receiver is None:
            raise BroadcastError("this engine has joined no broadcast")
        return self._receiver.take(version)

    def _read(self, version: Version, file: str) -> dict[str, torch.Tensor]:
        tensors = version_log.load(Path(file), version)
        if self._receiver is not None:
            self._receiver.drop_until(version)
        return tensors

    @property
    def _is_tied(self) -> bool:
        return bool(getattr(self.model_config.hf_text_config, "tie_word_embeddings", False))

    @contextlib.contextmanager
    def _quiet_about_tied_head(self) -> Iterator[None]:
        """vLLM warns that a tied head got no weights of its own; that is what tied means."""
        reload_logger = logging.getLogger(RELOAD_LOGGER)
        level = reload_logger.level
        reload_logger.setLevel(logging.ERROR if self._is_tied else level)
        try:
            yield
        finally:
            reload_logger.setLevel(level)


def register() -> None:
    """Let vLLM find the engine by name. vLLM calls this in each of its processes, in some more than once."""
    with contextlib.suppress(ValueError):  # already registered
        WeightTransferEngineFactory.register_engine(ENGINE_NAME, "learner.vllm_engine", StagedWeights.__name__)
    _name_shared_memory()


def _name_shared_memory() -> None:
    """Name blocks of shared memory as the semaphores of this process are named. Children inherit the name of those alone, and whoever clears up after
    a killed engine, whose workers share such blocks, knows what is the engine's by it."""
    prefix = multiprocessing.current_process()._config["semprefix"]  # type: ignore[attr-defined]
    names: Any = shared_memory  # the standard library's own constants, which it gives no other way to set
    names._SHM_NAME_PREFIX = f"{prefix}-"
    names._SHM_SAFE_NAME_LENGTH = len(names._SHM_NAME_PREFIX) + RANDOM_LETTERS


def check_fit(model: torch.nn.Module, is_tied: bool, tensors: dict[str, torch.Tensor]) -> None:
    """Raise BroadcastError with REFUSED unless `tensors` (checkpoint names) cover every parameter of the live model and nothing else."""
    expected = set(checkpoint_names(model, is_tied))
    mapper = getattr(model, "hf_to_vllm_mapper", None)
    given = set(mapper.get_rename_mapper().apply_list(list(tensors)) if mapper else tensors)
    if is_tied:
        given = {name for name in given if not name.startswith("lm_head.")}
    experts = {name.partition(".experts.")[0] for name in given if ".experts." in name}
    missing = {name for name in expected - given if not (".experts." in name and name.partition(".experts.")[0] in experts)}
    unknown = {name for name in given - expected if ".experts." not in name}
    if missing or unknown:
        raise BroadcastError(f"{REFUSED}: {listed('missing', missing)}{listed('unknown', unknown)}".rstrip("; "))


def checkpoint_names(model: torch.nn.Module, is_tied: bool) -> Iterable[str]:
    """The names under which a checkpoint holds the model's parameters: merged ones (qkv) one by one, a tied head not at all.

    The fused experts of a mixture are named by vLLM; a checkpoint's own names for them are matched by their layer alone.
    """
    packed: dict[str, list[str]] = getattr(model, "packed_modules_mapping", {})
    for name, _ in model.named_parameters(remove_duplicate=False):
        if is_tied and name.startswith("lm_head."):
            continue
        path, _, leaf = name.rpartition(".")
        parent, _, module = path.rpartition(".")
        for part in packed.get(module, [module]):
            yield ".".join(piece for piece in (parent, part, leaf) if piece)


def repack_tied_head(model: torch.nn.Module, device: torch.device) -> None:
    """On a CPU the tied head multiplies with a packed copy of the embedding, which a reload leaves as it was."""
    head = getattr(model, "lm_head", None)
    if device.type == "cpu" and head is not None:
        from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm  # here: only a CPU build has its kernels

        dispatch_cpu_unquantized_gemm(head, remove_weight=False)


def listed(word: str, names: set[str]) -> str:
    """`missing a, b and 7 more; `, or nothing for no names."""
    shown = sorted(names)[:3]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return f"{word} {', '.join(shown)}{more}; " if names else ""
