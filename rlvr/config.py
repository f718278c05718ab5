"""The run file, table by table and key by key: names, types, defaults, bounds and meanings.

Owns every default of the system; `rlvr.config_file` reads TOML into these tables and explains them. Knows no Ray, no torch, no file.
A bound that one value can break stands in its annotation; a bound between keys stands in `rlvr.config_rules`.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

AtLeast1 = Annotated[int, Meta(ge=1)]
Above0 = Annotated[float, Meta(gt=0.0)]
DType = Literal["float32", "bfloat16", "float16"]
Labels = dict[str, str]
Extract = Literal["last_boxed", "all"]
Grader = Literal["firesteel", "deepscaler_math", "qwen25_math"]


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One TOML table."""


class RunConfig(Table, frozen=True, kw_only=True):
    name: Annotated[str, Meta(min_length=1, description="names the run folder runs/NAME-TIME")] = "run"
    num_steps: Annotated[int, Meta(ge=1, description="training steps")] = 2000
    checkpoint_every_steps: Annotated[int, Meta(ge=0, description="steps between checkpoints; 0 = only the last")] = 20
    eval_every_steps: Annotated[int, Meta(ge=0, description="steps between evaluations; 0 = only before and after")] = 20
    seed: Annotated[int, Meta(ge=0, le=2**32 - 1, description="seeds sampling, data order and the learner")] = 1
    store: Annotated[
        str,
        Meta(
            description="where checkpoints, journal, version log, lock and history live, under the run's name: a folder that every host sees, or an "
            "fsspec URL; empty = the run folder, which only the controller's host sees"
        ),
    ] = ""
    deterministic: Annotated[bool, Meta(description="same rollouts and same bits in every run; needs max_staleness 0 and one generator")] = False
    keep_rollouts_gib: Annotated[float, Meta(ge=0.0, description="GiB of rollouts/ kept on disk, the oldest go first")] = 2.0
    grace_s: Annotated[float, Meta(gt=0.0, description="seconds that Ctrl-C or SIGTERM leaves for a last checkpoint")] = 60.0
    max_restarts: Annotated[
        int, Meta(ge=0, description="deaths of one part, with less than a minute of work between them, after which the run ends with the last error")
    ] = 5


class ModelConfig(Table, frozen=True, kw_only=True):
    policy: Annotated[str, Meta(min_length=1, description="a model folder, or a hub id")] = "Qwen/Qwen2.5-Math-1.5B"
    revision: Annotated[str, Meta(description="of a hub id: branch, tag or commit; empty = the hub's default")] = ""
    reference: Annotated[str, Meta(description='reference of the KL term: "initial" = the policy at the start, else a folder or hub id')] = "initial"
    param_dtype: Annotated[DType, Meta(description="type of the learner's master weights")] = "float32"
    compute_dtype: Annotated[DType, Meta(description="type in which learner and generators compute")] = "bfloat16"
    reference_dtype: Annotated[DType, Meta(description="type of the reference model")] = "bfloat16"
    activation_checkpointing: Annotated[bool, Meta(description="recompute activations in the backward pass to save memory")] = True
    trust_remote_code: Annotated[bool, Meta(description="run Python that the model folder brings along")] = False


class PromptsConfig(Table, frozen=True, kw_only=True):
    file: Annotated[str, Meta(description="problems, JSONL: id, prompt, answer, optional weight, meta; empty = the shipped one-shot examples")] = ""
    problems: Annotated[
        tuple[str, ...] | None, Meta(description="ids to train on; left out = every problem of the file (pi_1 of the shipped ones)")
    ] = None
    answers: Annotated[dict[str, str], Meta(description="id → label that replaces the file's gold answer")] = {}
    sampler: Annotated[Literal["fixed", "shuffle_drop_last"], Meta(description="in file order, or shuffled each epoch")] = "fixed"
    problems_per_step: Annotated[AtLeast1 | None, Meta(description="different problems in a step; left out = all")] = None
    copies_per_step: Annotated[int, Meta(ge=1, description="copies of each problem in a step")] = 1
    template: Annotated[
        str,
        Meta(description='"raw", "chat" (the model\'s own), "qwen25-math-cot", or a file with {prompt}; empty = chat if the model has one, else raw'),
    ] = ""
    user_suffix: Annotated[str, Meta(description="added to a chat prompt that does not end with it")] = (
        "Let's think step by step and output the final answer within \\boxed{}."
    )


class RolloutConfig(Table, frozen=True, kw_only=True):
    group_size: Annotated[int, Meta(ge=1, description="completions of one copy of a problem")] = 8
    temperature: Annotated[float, Meta(gt=0.0, description="of sampling")] = 0.6
    top_p: Annotated[float, Meta(gt=0.0, le=1.0, description="nucleus; below 1 only with recomputed old logprobs")] = 1.0
    top_k: Annotated[int, Meta(ge=-1, description="-1 = off")] = -1
    max_prompt_tokens: Annotated[int, Meta(ge=1, description="a longer prompt is refused at the start")] = 1024
    max_completion_tokens: Annotated[int, Meta(ge=1, description="a longer completion is cut and marked as truncated")] = 3072
    stop_tokens: Annotated[tuple[str, ...], Meta(description="tokens that end a completion, each one token of the tokenizer")] = ("<|endoftext|>",)
    max_staleness: Annotated[
        int, Meta(ge=0, description="versions between a rollout's oldest token and the start of the step that trains it; 0 = on-policy")
    ] = 2


class RewardConfig(Table, frozen=True, kw_only=True):
    kind: Annotated[
        str,
        Meta(
            min_length=1,
            description='"outcome", "format", "outcome_and_format", "length", "random", "none", or a reward that a package registers',
        ),
    ] = "outcome"
    grade: Annotated[Literal["completion"], Meta(description="the text that is graded")] = "completion"
    extract: Annotated[Extract, Meta(description="how the final answer is found in a completion")] = "last_boxed"
    grader: Annotated[Grader, Meta(description="which rules compare answer and gold")] = "firesteel"
    correct: Annotated[float, Meta(description="reward of a correct answer")] = 1.0
    wrong: Annotated[float, Meta(description="reward of a wrong or undecided answer")] = 0.0
    no_answer: Annotated[float, Meta(description="reward where no answer was found")] = 0.0
    literal: Annotated[bool, Meta(description="only one number or fraction in the box can be correct, so that copying the question does not pay")] = (
        False
    )
    format_bonus: Annotated[float, Meta(description='with kind = "outcome_and_format": added where the last box holds an answer, right or wrong')] = (
        0.1
    )
    random_probability: Annotated[float, Meta(ge=0.0, le=1.0, description='with kind = "random": chance of the reward of a correct answer')] = 0.5
    length_target_tokens: Annotated[
        int, Meta(ge=1, description='with kind = "length": a right answer of this length earns neither bonus nor loss')
    ] = 1024
    length_weight: Annotated[
        float, Meta(ge=0.0, description='with kind = "length": largest bonus for a short right answer, and loss for a long one')
    ] = 0.1


class AdvantageConfig(Table, frozen=True, kw_only=True):
    estimator: Annotated[Literal["grpo", "gae"], Meta(description="how rewards become advantages")] = "grpo"
    group_by: Annotated[Literal["problem", "copy"], Meta(description="who shares a baseline: all rollouts of a problem, or those of one copy")] = (
        "problem"
    )
    std_ddof: Annotated[int, Meta(ge=0, le=1, description="degrees of freedom taken from the group's standard deviation")] = 1
    std_eps: Annotated[float, Meta(ge=0.0, description="added to the standard deviation")] = 1e-6


class ObjectiveConfig(Table, frozen=True, kw_only=True):
    clip_low: Annotated[float, Meta(ge=0.0, le=1.0, description="the ratio is clipped below 1 - clip_low")] = 0.2
    clip_high: Annotated[float, Meta(ge=0.0, description="the ratio is clipped above 1 + clip_high")] = 0.2
    policy_coef: Annotated[float, Meta(ge=0.0, description="weight of the policy term; 0 = off")] = 1.0
    kl_coef: Annotated[float, Meta(ge=0.0, description="weight of the KL term to the reference; 0 = off")] = 0.001
    kl_estimator: Annotated[Literal["k1", "k2", "k3"], Meta(description="estimator of the KL term")] = "k3"
    kl_clamp: Annotated[float, Meta(gt=0.0, description="each token's KL is clamped to ± this, in nats")] = 10.0
    entropy_coef: Annotated[float, Meta(description="weight of the entropy bonus, positive = more entropy; 0 = off")] = 0.001
    temperature_in_logprobs: Annotated[bool, Meta(description="logprobs and entropy are those of the sampling temperature")] = True
    old_logprobs: Annotated[Literal["sampler", "recomputed"], Meta(description="whose logprobs the ratio is taken to")] = "sampler"
    importance_cap: Annotated[Above0 | None, Meta(description="cap of truncated importance weights learner/sampler; only with recomputed")] = None
    aggregation: Annotated[
        Literal["token_mean", "micro_batch_token_mean", "sequence_mean"], Meta(description="how token losses become one number")
    ] = "token_mean"


class OptimizerConfig(Table, frozen=True, kw_only=True):
    kind: Annotated[Literal["adamw"], Meta(description="the optimizer")] = "adamw"
    learning_rate: Annotated[float, Meta(gt=0.0, description="peak learning rate")] = 1e-6
    betas: Annotated[tuple[float, float], Meta(description="AdamW's two decay rates")] = (0.9, 0.999)
    eps: Annotated[float, Meta(gt=0.0, description="AdamW's epsilon")] = 1e-8
    weight_decay: Annotated[float, Meta(ge=0.0, description="decoupled weight decay")] = 0.01
    schedule: Annotated[Literal["constant", "linear", "cosine"], Meta(description="linear: step k of N uses lr * (1 - (k-1)/N)")] = "constant"
    warmup_steps: Annotated[int, Meta(ge=0, description="steps of linear warm-up")] = 0
    max_grad_norm: Annotated[float, Meta(gt=0.0, description="gradients are clipped to this global norm")] = 1.0
    updates_per_step: Annotated[int, Meta(ge=1, description="optimizer updates a step, each on an equal share of its rollouts")] = 1
    epochs_per_batch: Annotated[int, Meta(ge=1, description="passes over the rollouts of a step")] = 1
    max_tokens_per_micro_batch: Annotated[int, Meta(ge=1, description="prompt and completion tokens of a micro-batch of one rank")] = 24000


class EvaluationSet(Table, frozen=True, kw_only=True):
    names: Annotated[tuple[str, ...], Meta(description="names of the set; without file, NAME.jsonl beside the run file")] = ()
    file: Annotated[str, Meta(description="problems, JSONL")] = ""
    temperature: Annotated[float, Meta(ge=0.0, description="0 = greedy")] = 0.0
    samples_per_problem: Annotated[int, Meta(ge=1, description="completions of each problem; accuracy is their mean")] = 1


class EvaluationConfig(Table, frozen=True, kw_only=True):
    template: Annotated[str, Meta(description="as prompts.template; empty = the training template")] = ""
    extract: Annotated[Extract, Meta(description="how the final answer is found")] = "last_boxed"
    grader: Annotated[Grader, Meta(description="which rules compare answer and gold")] = "firesteel"
    max_completion_tokens: Annotated[AtLeast1 | None, Meta(description="left out = the rollouts' limit")] = None
    stop_tokens: Annotated[
        tuple[str, ...] | None,
        Meta(description="left out = the rollouts' stop tokens; one that the tokenizer does not have stops nothing, with a warning"),
    ] = None
    report: Annotated[tuple[Literal["last", "best_average", "base_same_prompt"], ...], Meta(description="what the summary table shows")] = ("last",)
    sets: Annotated[tuple[EvaluationSet, ...], Meta(description="[[evaluation.sets]]; the first greedy one gives the summary's accuracies")] = ()


class CriticConfig(Table, frozen=True, kw_only=True):
    learning_rate: Annotated[float, Meta(gt=0.0, description="of the critic; only with advantage.estimator = gae")] = 1e-5
    value_clip: Annotated[float, Meta(gt=0.0, description="clip of the value loss")] = 0.5
    discount: Annotated[float, Meta(ge=0.0, le=1.0, description="gamma")] = 1.0
    trace_decay: Annotated[float, Meta(ge=0.0, le=1.0, description="lambda")] = 1.0


class GeneratorsConfig(Table, frozen=True, kw_only=True):
    count: Annotated[
        AtLeast1 | Literal["auto"],
        Meta(description='inference engines; "auto" = as many as the live Ray nodes that match labels hold: GPUs / tensor_parallel, 1 on a CPU node'),
    ] = 1
    min: Annotated[int, Meta(ge=1, description='engines at least, for scaling = "metrics" and `firesteel scale`')] = 1
    max: Annotated[int, Meta(ge=1, description="engines at most, whoever scales")] = 256
    scaling: Annotated[
        Literal["manual", "metrics"], Meta(description='"metrics" = within min and max: more while the learner waits, fewer while the queue is full')
    ] = "manual"
    max_tokens_per_second: Annotated[
        Above0 | None, Meta(description="completion tokens a second that one engine starts at most, on average; left out = no limit")
    ] = None
    tensor_parallel: Annotated[int, Meta(ge=1, description="GPUs of one engine")] = 1
    max_num_seqs: Annotated[int, Meta(ge=1, description="completions that one engine samples at once")] = 128
    gpu_memory_fraction: Annotated[float, Meta(gt=0.0, le=1.0, description="of a GPU's memory, given to one engine")] = 0.85
    kv_cache_gib: Annotated[float, Meta(gt=0.0, description="GiB of KV cache of an engine on a CPU")] = 1.0
    device: Annotated[Literal["auto", "cpu", "cuda"], Meta(description="auto = cuda where Ray has GPUs")] = "auto"
    threads: Annotated[int, Meta(ge=1, description="threads of an engine on a CPU")] = 1
    enforce_eager: Annotated[bool, Meta(description="no CUDA graphs: starts sooner, samples slower")] = False
    labels: Annotated[Labels, Meta(description="Ray label selector, such as rlvr.io/role = generator")] = {}


class VerifiersConfig(Table, frozen=True, kw_only=True):
    count: Annotated[int, Meta(ge=1, description="verifier actors")] = 1
    max: Annotated[int, Meta(ge=1, description="verifier actors at most, whoever scales")] = 256
    workers: Annotated[int, Meta(ge=1, description="sandboxed children of each verifier")] = 1
    undecided: Annotated[Literal["zero", "exclude"], Meta(description="an undecided answer earns reward.wrong, or leaves its group")] = "zero"
    cpu_budget_s: Annotated[float, Meta(gt=0.0, description="CPU seconds after which an answer is undecided")] = 0.5
    wall_s: Annotated[float, Meta(gt=0.0, description="wall seconds after which a child is killed")] = 1.5
    memory_mib: Annotated[int, Meta(ge=256, description="address space of a child")] = 1024
    require: Annotated[tuple[Literal["seccomp", "landlock"], ...], Meta(description="sandbox layers without which the run does not start")] = ()
    labels: Annotated[Labels, Meta(description="Ray label selector, such as rlvr.io/role = verifier")] = {}


class LearnerConfig(Table, frozen=True, kw_only=True):
    ranks: Annotated[int, Meta(ge=1, description="FSDP ranks, one GPU each on cuda")] = 1
    device: Annotated[Literal["auto", "cpu", "cuda"], Meta(description="auto = cuda where Ray has GPUs")] = "auto"
    keep: Annotated[int, Meta(ge=1, description="checkpoints kept, the newest ones")] = 2
    threads: Annotated[int, Meta(ge=1, description="threads of one rank on a CPU")] = 1
    logprob_chunk_tokens: Annotated[int, Meta(ge=1, description="completion tokens whose logits exist at once")] = 1024
    labels: Annotated[Labels, Meta(description="Ray label selector, such as rlvr.io/role = learner")] = {}


class QueueConfig(Table, frozen=True, kw_only=True):
    order: Annotated[Literal["admission", "completion", "window"], Meta(description="which groups a batch takes first")] = "admission"
    window: Annotated[int, Meta(ge=0, description="with order = window: younger groups that may pass a slow one")] = 0
    lease_s: Annotated[float, Meta(gt=0.0, description="seconds after which unfinished work is given to somebody else")] = 600.0
    silence_s: Annotated[
        float, Meta(ge=2.0, description="seconds without a sign of life after which a process is given up: its work goes to others, it is replaced")
    ] = 30.0
    journal: Annotated[
        Literal["fsync", "write"],
        Meta(description="what is accepted is on the disk (fsync), or with the operating system (write), before it is acknowledged"),
    ] = "fsync"
    commit_s: Annotated[float, Meta(ge=0.0, le=1.0, description="seconds for which the journal gathers entries before one write")] = 0.005
    keep_segments: Annotated[bool, Meta(description="journal segments that checkpoints cover are archived, for audits, and not removed")] = False


class WeightsConfig(Table, frozen=True, kw_only=True):
    deadline_s: Annotated[float, Meta(gt=0.0, description="seconds within which a broadcast must end")] = 60.0
    backend: Annotated[Literal["auto", "gloo", "nccl"], Meta(description="of the broadcast; auto = nccl where both ends are on GPUs")] = "auto"
    log_every_steps: Annotated[
        int, Meta(ge=0, description="steps between whole versions in the version log, from which late generators start; 0 = evaluated ones alone")
    ] = 1


class MetricsConfig(Table, frozen=True, kw_only=True):
    bind: Annotated[str, Meta(description="address on which metrics and service discovery are served")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="of the controller's service discovery; 0 = a free one")] = 0
    actor_port: Annotated[
        int, Meta(ge=0, le=65535, description="first port that an actor tries for its metrics; it takes the next free one of 100. 0 = any free one")
    ] = 0
    linger_s: Annotated[
        float, Meta(ge=0.0, le=600.0, description="seconds for which the controller still serves how the run ended; longer than a scrape interval")
    ] = 0.0


UsdPerHour = Annotated[float, Meta(ge=0.0)]


class CostConfig(Table, frozen=True, kw_only=True):
    controller_usd_per_hour: Annotated[
        UsdPerHour | None, Meta(description="US dollars an hour of a node labelled rlvr.io/role = controller without the label rlvr.io/usd-per-hour")
    ] = None
    generator_usd_per_hour: Annotated[UsdPerHour | None, Meta(description="the same of a generator node")] = None
    verifier_usd_per_hour: Annotated[UsdPerHour | None, Meta(description="the same of a verifier node")] = None
    learner_usd_per_hour: Annotated[UsdPerHour | None, Meta(description="the same of a learner node")] = None
    shared_usd_per_hour: Annotated[UsdPerHour | None, Meta(description="the same of a node without a role, such as a machine for everything")] = None
    budget_usd: Annotated[float, Meta(ge=0.0, description="US dollars that the run may cost before an alert says so; 0 = no budget")] = 0.0


class Config(Table, frozen=True, kw_only=True):
    """A whole run."""

    run: RunConfig = RunConfig()
    model: ModelConfig = ModelConfig()
    prompts: PromptsConfig = PromptsConfig()
    rollout: RolloutConfig = RolloutConfig()
    reward: RewardConfig = RewardConfig()
    advantage: AdvantageConfig = AdvantageConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    critic: CriticConfig = CriticConfig()
    generators: GeneratorsConfig = GeneratorsConfig()
    verifiers: VerifiersConfig = VerifiersConfig()
    learner: LearnerConfig = LearnerConfig()
    queue: QueueConfig = QueueConfig()
    weights: WeightsConfig = WeightsConfig()
    metrics: MetricsConfig = MetricsConfig()
    cost: CostConfig = CostConfig()
