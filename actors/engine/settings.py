"""What an engine is started with: its settings, the environment they become, and the arguments of vLLM.

Called by `actors.engine.engine` alone. vLLM and torch read the environment when they are imported, by the child process at the latest, so this module
imports neither.
"""

import os
from typing import Any, Literal

import msgspec

from actors.engine import sockets
from learner.weight_group import Backend

WEIGHT_ENGINE_NAME = "firesteel"


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One engine. model: a Hugging Face folder, or a hub id. seed: 32 bits, another for every engine of a run and every restart of one, since
    equal seeds sample equal streams."""

    model: str
    revision: str = ""
    """Of a hub id; empty = its default."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    device: str = "cuda"
    """cpu or cuda."""
    tensor_parallel: int = 1
    max_num_seqs: int = 128
    max_model_len: int = 4096
    kv_cache_gib: float = 1.0
    """On a CPU."""
    gpu_memory_fraction: float = 0.85
    """On a GPU."""
    threads: int = 1
    """Of each worker on a CPU."""
    seed: int = 0
    enforce_eager: bool = False
    """On a CPU nothing is compiled, whatever this says: it would cost more minutes than it wins back there."""
    trust_remote_code: bool = False


def prepare_environment(settings: EngineSettings) -> None:
    """Set what vLLM reads from the environment; to be called before it is imported. What the user has set stays, but for the device."""
    defaults = {
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "TORCH_CPP_LOG_LEVEL": "ERROR",  # its warnings about a lost sender come with a C++ stack; we say it in one line
    }
    if os.path.isdir(settings.model):
        defaults["HF_HUB_OFFLINE"] = "1"  # a folder is whole
    if settings.device == "cpu":
        # Unbound: two engines of one machine would else be bound to the same first cores. Pin the process to choose cores.
        defaults |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        # A build for GPUs, or a visible GPU, would else decide against what was asked for.
        os.environ["VLLM_TARGET_DEVICE"] = "cpu"
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        os.environ["OMP_NUM_THREADS"] = str(settings.threads)
        if settings.tensor_parallel == 1:
            # The worker lives in the engine's process: half the start, 0.6 GiB less. vLLM gives it a process of its own only to bind its threads.
            os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    os.environ["VLLM_RPC_BASE_PATH"] = str(sockets.make())


def engine_arguments(settings: EngineSettings) -> dict[str, Any]:
    """Keyword arguments of vLLM's AsyncEngineArgs, without its weight-transfer configuration."""
    device: dict[str, Any] = {"gpu_memory_utilization": settings.gpu_memory_fraction, "enforce_eager": settings.enforce_eager}
    if settings.device == "cpu":
        device = {
            "kv_cache_memory_bytes": int(settings.kv_cache_gib * 2**30),
            "enforce_eager": True,
            "block_size": 32,  # the smallest there: prompts share whole blocks only, and vLLM's default of 128 tokens is longer than many a prompt
        }
    return device | {
        "model": settings.model,
        "revision": settings.revision or None,
        "dtype": settings.dtype,
        "tensor_parallel_size": settings.tensor_parallel,
        "distributed_executor_backend": "uni" if settings.tensor_parallel == 1 else "mp",
        "max_num_seqs": settings.max_num_seqs,
        "max_model_len": settings.max_model_len,
        "seed": settings.seed,
        "trust_remote_code": settings.trust_remote_code,
        "logprobs_mode": "processed_logprobs",  # of the sampling distribution, temperature included
        "enable_prefix_caching": True,
        "skip_tokenizer_init": True,  # token ids in, token ids out
        "generation_config": "vllm",  # the run file alone says how to sample
    }


class BroadcastAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Where the weight sender is, and the name that this generator brings to its groups."""

    host: str
    port: int
    generator: str
    backend: Backend = "gloo"
    deadline_s: float = 60.0
