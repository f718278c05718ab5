"""The dashboard's rows, in the order of an engineer's questions."""

from deploy.monitoring.panels import Row
from deploy.monitoring.rows import fleet, generators, gpu, learner, now, policy, staleness, verifiers

ROWS: tuple[Row, ...] = (now.ROW, generators.ROW, staleness.ROW, verifiers.ROW, learner.ROW, policy.ROW, fleet.ROW, gpu.ROW)
