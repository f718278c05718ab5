"""The process of a vLLM engine: how it begins, and what vLLM leaves behind at its end.

Called by `actors.engine.engine` alone; blocks. vLLM is imported when the first engine starts: the environment is prepared by then.
"""

from typing import TYPE_CHECKING

from actors.engine.settings import WEIGHT_ENGINE_NAME, EngineSettings, engine_arguments

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM


def start_vllm(settings: EngineSettings, built: "list[AsyncLLM]") -> None:
    """Put a new engine into `built`; blocks until the model is loaded. Not returned: something keeps these frames, and would keep the engine."""
    from vllm import AsyncEngineArgs
    from vllm.config import WeightTransferConfig
    from vllm.v1.engine.async_llm import AsyncLLM

    arguments = AsyncEngineArgs(**engine_arguments(settings), weight_transfer_config=WeightTransferConfig(backend=WEIGHT_ENGINE_NAME))
    built.append(AsyncLLM.from_engine_args(arguments))


def close_context(llm: "AsyncLLM") -> None:
    """End the context of vLLM's sockets: it closes the sockets and leaves the context to the collector, which warns whenever it comes by."""
    context = getattr(getattr(llm.engine_core, "ctx", None), "_shadow_obj", None)  # the one that the asyncio context stands for
    if context is not None and not context.closed:
        context.destroy(linger=0)
