"""The rules between keys: which combinations are refused, and in which words."""

from pathlib import Path

import pytest

from rlvr.config import Config
from rlvr.config_file import parse_config
from rlvr.config_rules import check_run, rollouts_per_step
from rlvr.errors import ConfigError


def parse(text: str) -> Config:
    return parse_config(text, folder=Path("/x"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[advantage]\nestimator='gae'", '"gae" is not built yet; "grpo" is'),
        ("[critic]\ndiscount=0.9", r"\[critic\] acts only with advantage.estimator = \"gae\", which is not built yet"),
        ("[model]\npolicy='./base'\nrevision='main'", "model.revision goes with a hub id, but model.policy is the folder /x/base"),
        ("[model]\ncompute_dtype='float16'", 'compute_dtype = "float16" would need loss scaling'),
        ("[generators]\ndevice='cpu'\ntensor_parallel=2", "tensor_parallel must be 1 on a CPU, got 2"),
        ("[objective]\nimportance_cap=2.0", 'importance_cap needs objective.old_logprobs = "recomputed"'),
        ("[objective]\nold_logprobs='recomputed'", r"leaves stale rollouts uncorrected: .*max_staleness = 0 \(it is 2\)"),
        ("[rollout]\ntop_p=0.9", "top_p = 0.9 and rollout.top_k = -1 cut the support"),
        ("[rollout]\ntop_k=20", "cut the support"),
        ("[rollout]\ntop_k=20\n[objective]\nold_logprobs='recomputed'\nimportance_cap=2.0", "cut the support"),
        ("[objective]\ntemperature_in_logprobs=false", "needs rollout.temperature = 1 .*, got 0.6"),
        ("[objective]\npolicy_coef=0\nkl_coef=0\nentropy_coef=0", "nothing would be trained"),
        ("[rollout]\ngroup_size=1", "a baseline needs at least 2 rollouts"),
        ("[rollout]\ngroup_size=1\n[prompts]\ncopies_per_step=8\n[advantage]\ngroup_by='copy'", "a baseline needs at least 2 rollouts"),
        ("[optimizer]\nbetas=[0.9,1.0]", r"betas must be two numbers >= 0 and < 1, got \[0.9, 1.0\]"),
        ("[optimizer]\nwarmup_steps=2001", "warmup_steps must be at most run.num_steps, 2000, got 2001"),
        ("[optimizer]\nmax_tokens_per_micro_batch=4095", "max_prompt_tokens \\+ max_completion_tokens = 4096, got 4095"),
        ("[optimizer]\nupdates_per_step=3", "updates_per_step must divide the rollouts of a step, 8, got 3"),
        ("[optimizer]\nupdates_per_step=8\n[learner]\nranks=2", "learner.ranks must be at most the rollouts of an update, 1, got 2"),
        ("[prompts]\nproblems=['a','b']\nproblems_per_step=3", "problems_per_step must be at most the number of problems, 2, got 3"),
        ("[prompts]\nproblems=[]", "prompts.problems is empty"),
        ("[prompts]\nproblems=['a','b','a']", "names 'a' twice"),
        ("[queue]\nwindow=2", 'queue.window must be > 0 with queue.order = "window" and 0 otherwise'),
        ("[queue]\norder='window'", "queue.window must be > 0"),
        ("[weights]\nbackend='nccl'\n[learner]\ndevice='cpu'", "needs GPUs at both ends"),
        ("[verifiers]\nwall_s=0.25", "wall_s must be at least verifiers.cpu_budget_s, 0.5, got 0.25"),
        ("[run]\nname='../x'", "run.name names a folder"),
        ("[rollout]\nstop_tokens=['']", "empty string"),
        ("[metrics]\nbind=' '", "metrics.bind must be an address"),
        ("[[evaluation.sets]]\nfile='a'\nsamples_per_problem=8", "the same completion 8 times"),
        ("[[evaluation.sets]]\nfile='train.jsonl'", "the name 'train' is kept for the training problems"),
        ("[generators]\nmin=3\nmax=2", "generators.min must be at most generators.max, 2, got 3"),
        ("[generators]\ncount=3\nmax=2", "generators.count must lie between generators.min = 1 and max = 2, got 3"),
        ("[generators]\ncount='auto'\nscaling='metrics'", "needs a number in generators.count"),
        ("[generators]\ncount='many'", "generators.count"),
        ("[verifiers]\ncount=3\nmax=2", "verifiers.count must be at most verifiers.max = 2, got 3"),
        ("[run]\ndeterministic=true", "run.deterministic = true needs rollout.max_staleness = 0, got 2"),
        ("[run]\ndeterministic=true\n[rollout]\nmax_staleness=0\n[generators]\ncount=2", "needs generators.count = 1, got 2"),
        ("[run]\ndeterministic=true\n[rollout]\nmax_staleness=0\n[generators]\nthreads=2", "needs generators.threads = 1, got 2"),
        ("[run]\ndeterministic=true\n[rollout]\nmax_staleness=0\n[learner]\nthreads=2", "needs learner.threads = 1, got 2"),
    ],
)
def test_a_combination_that_cannot_work_is_refused_in_one_sentence(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "[objective]\nold_logprobs='recomputed'\nimportance_cap=2.0",
        "[objective]\nold_logprobs='recomputed'\n[rollout]\nmax_staleness=0\ntop_p=0.9\ntop_k=20",
        "[objective]\ntemperature_in_logprobs=false\n[rollout]\ntemperature=1",
        "[objective]\nold_logprobs='recomputed'\ntemperature_in_logprobs=false\n[rollout]\nmax_staleness=0",
        "[rollout]\ngroup_size=1\n[prompts]\ncopies_per_step=8",
        "[rollout]\ngroup_size=1\n[objective]\npolicy_coef=0",
        "[queue]\norder='window'\nwindow=4",
        "[run]\ndeterministic=true\n[rollout]\nmax_staleness=0",
        "[optimizer]\nupdates_per_step=8",
        "[verifiers]\nundecided='exclude'\nrequire=['seccomp','landlock']",
    ],
)
def test_a_combination_that_can_work_is_taken(text: str) -> None:
    parse(text)


def test_rollouts_of_a_step_are_problems_times_copies_times_group_size() -> None:
    assert rollouts_per_step(parse("[prompts]\ncopies_per_step=128"), 1) == 1024
    assert rollouts_per_step(parse("[prompts]\nfile='p'\nproblems_per_step=128"), 1209) == 1024
    assert rollouts_per_step(parse("[prompts]\nfile='p'"), 16) == 128


def test_sizes_that_depend_on_the_problems_are_checked_when_these_are_known(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text("")
    config = parse_config("[prompts]\nfile='p.jsonl'\n[optimizer]\nupdates_per_step=3", folder=tmp_path)
    check_run(config, num_problems=3)
    with pytest.raises(ConfigError, match="updates_per_step must divide the rollouts of a step, 16, got 3"):
        check_run(config, num_problems=2)
