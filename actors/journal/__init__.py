"""The journal: what the rollout queue has promised, on a disk or in an object store, so that a queue that dies loses nothing it acknowledged.

Owns the bytes: segments, group commit, replay, compaction. Called by the queue's service; decides nothing about rollouts, knows no Ray.

The format, for whoever reads it without this code
--------------------------------------------------
A journal is a folder (or a prefix of an object store) of *segments* `NNNNNNNN.journal`: eight decimal digits, counting up, gaps only where
older segments were removed. With `queue.keep_segments` a removed segment lies under `archive/` with the same name and the same bytes.
Read the segments by number, `archive/` first; a number that is in both places is the same segment (a crash fell between two steps of its move).

A segment is a sequence of *frames* without anything between them. A frame (`rlvr.wire`) is

    u8 wire version (1) | u32 length of the payload | u32 CRC-32 of the five bytes before and of the payload | payload

integers little-endian, CRC-32 as in zlib. The payload is one MessagePack map, an *entry*; `type` names it. Strings are UTF-8 in which a lone
surrogate may occur; token ids are int32 and logprobs float32 as little-endian bin; `spans` are `[{"version": {"lineage", "step"}, "start", "end"}]`.

*Torn tail.* Only the newest segment may end within a frame (or in a frame whose checksum is wrong and which reaches the end of the file): the
writer died there, and nothing of it was acknowledged. The next opening cuts it off and begins a new segment. Anything else that does not
check is corruption. In an object store a segment is one group commit, whole or not there.

The entries, all in the order in which they happened:

| type | fields | what happened |
|---|---|---|
| header | format, run, segment, incarnation, lineage, at | first entry of every segment; `format` is 1, `at` seconds since 1970, incarnation the queue's starts before this one |
| snapshot | see `actors.journal.entries.Snapshot` | second entry of a segment that a compaction began: the whole state without rollouts; repeats, adds nothing |
| leased | kind (sampling or verifying), lease_id, worker, step, rollout_ids, continued | a lease was given; continued: ids whose tokens of a leaving generator travel with it |
| ended | kind, lease_id, cause (expired, lost, handed_back, restart), partials | a lease ended without the rest of its work, which others do; partials: unfinished completions that are kept |
| accepted | rollout (`rlvr.records.Rollout`) | **a rollout was accepted**; its id never occurs in another such entry |
| unfit | lease_id, rollout_id, reason | a result did not fit its lease; its place is sampled again under another id |
| judged | verdict (`rlvr.records.Verdict`) | an accepted rollout has the verdict that trains it |
| dropped | rollout_id, reason (`DropReason`), is_resampled, is_ours, num_tokens, verdict (or nil) | **an accepted rollout will never train**; is_resampled: its place is sampled again |
| refused | kind (rollout or verdict), counts | results that were not taken, by reason |
| batch | step, lineage, rollout_ids, groups, short | **a batch was handed out**, ids in the learner's order; again after a roll-back, with the same ids and the new lineage |
| applied | lineage, step, generator | a generator samples from this version: the slots of its step and of earlier ones are free |
| committed | step | every kept checkpoint covers the batches up to `step`: they are never asked for again |
| rolled_back | step, lineage | the weights went back to the checkpoint of `step`; what follows is of `lineage` |
| closed | is_finished | an orderly end; a finished run has dropped what it held before |

*What an audit counts.* accepted entries = ids in batches + dropped entries + held, at the end of any prefix. An id is consumed when it is in a batch
of the surviving lineage: for each step the last `batch` entry of that step counts, and after `rolled_back(step=c)` those of steps above c count only
once they were handed out again. A rollout id is `step/group/member/attempt` with 6, 4, 4 and at least 2 digits.

*Acknowledgement.* `accepted`, `judged` and `dropped` entries are on the disk before the call that brought them is answered, `batch` before the batch
is; the others are written with the next group commit and nobody waits for them.
"""
