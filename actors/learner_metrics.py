"""The learner's facts as metrics.

Owns which figure of which record goes into which metric. Called by the learner actor where a fact is known.
"""

from learner.broadcaster import Membership
from learner.checkpoint_report import Saved, SaveFailed
from learner.report import StepReport
from learner.weights import BroadcastReport
from rlvr.metrics import Registry


def measure_step(metrics: Registry, report: StepReport, *, waited_s: float) -> None:
    metrics.counter("rlvr_learner_wait_seconds_total").inc(waited_s)
    metrics.counter("rlvr_tokens_trained_total").inc(report.tokens)
    metrics.histogram("rlvr_train_seconds").observe(report.seconds.total)
    metrics.gauge("rlvr_learner_step").set(report.step)
    metrics.gauge("rlvr_learner_step_timestamp_seconds").set_to_current_time()
    metrics.gauge("rlvr_learning_rate").set(report.learning_rate)
    if report.skipped:
        return  # an empty batch says nothing about the policy
    metrics.gauge("rlvr_reward_mean").set(report.reward_mean)
    metrics.gauge("rlvr_uniform_groups_ratio").set(1.0 - report.informative_groups / report.groups)
    metrics.gauge("rlvr_truncated_ratio").set(report.truncated_share)
    metrics.gauge("rlvr_loss").set(report.loss)
    metrics.gauge("rlvr_entropy_nats").set(report.entropy)
    metrics.gauge("rlvr_kl_nats").set(report.kl or 0.0)
    metrics.gauge("rlvr_clipped_tokens_ratio").set(report.ratio.clip_fraction)
    metrics.gauge("rlvr_logprob_gap_nats").set(report.sampler_gap.mean_abs)
    metrics.gauge("rlvr_gradient_norm").set(report.grad_norm)


def measure_broadcast(metrics: Registry, broadcast: BroadcastReport) -> None:
    metrics.histogram("rlvr_weight_broadcast_seconds").observe(broadcast.seconds)
    metrics.counter("rlvr_weight_bytes_sent_total").inc(broadcast.bytes_sent)
    metrics.gauge("rlvr_published_version").set(broadcast.version.step)


def measure_membership(metrics: Registry, membership: Membership) -> None:
    metrics.gauge("rlvr_weight_epoch").set(membership.epoch)
    metrics.gauge("rlvr_weight_receivers").set(len(membership.members))
    metrics.counter("rlvr_weight_receivers_lost_total").inc(len(membership.lost))


def measure_checkpoint(metrics: Registry, news: Saved | SaveFailed) -> None:
    if isinstance(news, SaveFailed):
        metrics.counter("rlvr_checkpoint_failures_total").inc()
        return
    metrics.histogram("rlvr_checkpoint_seconds").observe(news.seconds)
    metrics.histogram("rlvr_checkpoint_pause_seconds").observe(news.pause_s)
    metrics.gauge("rlvr_checkpoint_step").set(news.version.step)
    metrics.gauge("rlvr_checkpoint_timestamp_seconds").set_to_current_time()
