"""GPUs, as NVIDIA's DCGM exporter sees them; empty without it. Its targets know no run, so all GPUs that it watches are shown."""

from deploy.monitoring.panels import GREEN, RED, Need, Panel, Query, Row, lines

_NAME = "{{Hostname}} {{gpu}}"


def _each(name: str) -> str:
    return f"max by (Hostname, gpu) ({name})"


_PANELS: tuple[Panel, ...] = (
    lines(
        "GPU busy",
        "Share of the time with a kernel running. Low on learner GPUs while it waits; low on generators: too few completions in flight.",
        Query(f"{_each('DCGM_FI_DEV_GPU_UTIL')} / 100", _NAME),
        unit="percentunit",
        least=0,
        most=1,
        needs=Need.GPU,
        if_empty="no DCGM exporter",
    ),
    lines(
        "Tensor cores busy",
        "Share of the cycles in which the tensor pipe works: the honest measure of use.",
        Query(_each("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE"), _NAME),
        unit="percentunit",
        least=0,
        most=1,
        needs=Need.GPU,
        if_empty="no DCGM exporter",
    ),
    lines(
        "GPU memory in use",
        "Framebuffer.",
        Query(f"{_each('DCGM_FI_DEV_FB_USED')} * 1048576", _NAME),
        unit="bytes",
        least=0,
        needs=Need.GPU,
        if_empty="no DCGM exporter",
    ),
    lines(
        "GPU power",
        "Watts. A GPU far below its peers at the same load is throttled.",
        Query(_each("DCGM_FI_DEV_POWER_USAGE"), _NAME),
        unit="watt",
        least=0,
        needs=Need.GPU,
        if_empty="no DCGM exporter",
    ),
    lines(
        "Last XID",
        "The last error code of each GPU, 0 = none. Many codes mean a broken device: drain the node.",
        Query(_each("DCGM_FI_DEV_XID_ERRORS"), _NAME),
        unit="none",
        least=0,
        decimals=0,
        thresholds=((None, GREEN), (1, RED)),
        needs=Need.GPU,
        if_empty="no DCGM exporter",
    ),
)

ROW = Row(title="GPU", panels=_PANELS, is_folded=True)
