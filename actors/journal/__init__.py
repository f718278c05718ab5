"""The journal: what the rollout queue has promised, on a disk or in an object store, so that a queue that dies loses nothing it acknowledged.

Owns the bytes: segments, group commit, replay, compaction. Called by the queue's service; decides nothing about rollouts, knows no Ray.

The format, for whoever reads it without this code
--------------------------------------------------
A journal is a folder (or a prefix of an object store) of *segments* `NNNNNNNN.journal`: eight decimal digits, counting up; a number is missing
where the segment was removed, or held nothing whole: never within one incarnation, and no incarnation is skipped. `lock` in a folder is held by the
process that writes, and names it. With `queue.keep_segments` a removed segment lies under `archive/` with the same name and the
same bytes. Read the segments by number, `archive/` first; a number that is in both places is the same segment (a crash fell between two steps of
its move).

A segment is a sequence of *frames* without anything between them. A frame (`rlvr.wire`) is

    u8 wire version (1) | u32 length of the payload | u32 CRC-32 of the five bytes before and of the payload | payload

integers little-endian, CRC-32 as in zlib. The payload is one MessagePack map, an *entry*; `type` names it. Strings are UTF-8 in which a lone
surrogate may occur; token ids are int32 and logprobs float32 as little-endian bin; `spans` are `[{"version": {"lineage", "step"}, "start", "end"}]`.

Entries are written in *group commits*: some entries, then one write, then one fsync. Every one begins with a `group` entry, or, where it
is a segment's first, with the `header`. In an object store a segment is one group commit.

*Torn tail.* The newest segment may hold a frame that is cut or does not check, if no valid `group` entry follows it: the writer died in its last
group commit, of which nothing was acknowledged. The next opening cuts the segment before that frame (a segment without a whole header is
removed) and begins a new one. Anything else that does not check is corruption.

The entries, in the order in which things happened, each by `type` with its fields (`actors.journal.entries` has their types):

header       format, run, segment, incarnation, lineage, at
             First entry of every segment. `format` is 1, `at` seconds since 1970, incarnation the queue's starts before this one.
group        serial
             A group commit begins; it counts nothing.
snapshot     see `actors.journal.entries.Snapshot`
             Second entry of a segment that a compaction began: the whole state without the rollouts. It repeats and adds nothing.
leased       kind (sampling or verifying), lease_id, worker, step, rollout_ids, continued
             A lease was given; step: the one that will train it; continued: ids whose tokens of a leaving generator travel with it.
ended        kind, lease_id, cause (expired, lost, handed_back, restart, closed), partials, discarded
             A lease ended without the rest of its work, which others do. partials: unfinished completions that are kept, under the ids of that
             lease; discarded: how many are not, by `rlvr.records.PartialFate`.
accepted     rollout (`rlvr.records.Rollout`)
             A ROLLOUT WAS ACCEPTED. No id occurs in two such entries.
unfit        lease_id, rollout_id, reason
             A result did not fit its lease; its place is sampled again under another id.
judged       verdict (`rlvr.records.Verdict`)
             An accepted rollout has the verdict that trains it.
dropped      rollout_id, reason (`rlvr.records.DropReason`), is_resampled, is_ours, num_tokens, verdict (or nil)
             AN ACCEPTED ROLLOUT WILL NEVER TRAIN. is_resampled: its place is sampled again.
refused      kind (rollout or verdict), counts
             Results that were not taken, by reason.
batch        step, lineage, rollout_ids, groups, short
             A BATCH WAS HANDED OUT, ids in the learner's order. After a roll-back again: same ids, next lineage, not consumed twice.
applied      lineage, step, generator
             A generator samples from this version: the slots of its step and of earlier ones are free.
committed    step
             Every kept checkpoint covers the batches up to `step`: they can never be asked for again.
rolled_back  step, lineage
             The weights went back to the checkpoint of `step`; what follows is of `lineage`.
begun_again  step
             Deterministic mode: this step was not complete at a restart and is sampled again whole; its rollouts were dropped before.
closed       is_finished
             An orderly end. A finished run has dropped what it held; an interrupted one goes on after it, under the next incarnation.

*What an audit counts.* Distinct ids of accepted = distinct ids in batches + dropped + held, after every entry. For each step the last `batch`
entry counts, and after `rolled_back(step=c)` those of steps above c count only once they were handed out again. An id in batches of two
different steps would be trained twice. A rollout id is `step/group/member/attempt` with 6, 4, 4 and at least 2 digits.

*Acknowledgement.* `accepted`, `judged` and `dropped` entries are durable before the call that brought them is answered; so are partials, roll-backs,
commits, and a `batch` before it is handed out. Nobody waits for the others: they are written with the next group commit, in order.

*Removal.* After `committed` a segment begins with a snapshot; when that is durable, segments are removed whose rollouts are all in batches up to that
step or dropped, the oldest first and up to the first one that still holds a rollout in need.
"""
