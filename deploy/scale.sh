#!/usr/bin/env bash
# Changes how many pods one group of a running cluster has, and nothing else of it.
#
#   deploy/scale.sh [-n NAMESPACE] [-t TARGET] [--keep] [--dry-run] GROUP PODS        exactly PODS
#   deploy/scale.sh [-n NAMESPACE] [-t TARGET] [--keep] [--dry-run] GROUP MIN MAX     what the autoscaler may choose from
#
# TARGET is rayjob/NAME (default rayjob/rlvr), whose live cluster is meant, or raycluster/NAME. The change is a JSON patch that first tests that the
# group still has the name at its place: a merge patch would replace the whole list of groups, pod templates included. --keep writes the same into
# the RayJob, so that its next attempt starts so; without it the next attempt starts as the manifest says. KUBECTL names another kubectl.
#
# With generators.count = "auto" the run follows its generator pods. Verifiers follow their actors: `firesteel scale RUN_DIR --verifiers N` in the head.
# The learner's size is learner.ranks and does not change while a run lives. Exit code 2: refused, nothing was changed.
set -euo pipefail
KUBECTL=${KUBECTL:-kubectl}
MOST=256   # generators.max and verifiers.max of a run file that says nothing else
namespace=firesteel target=rayjob/rlvr keep='' dry_run=''

refuse() { echo "scale.sh: $*" >&2; exit 2; }
fail() { echo "scale.sh: $*" >&2; exit 1; }
usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit "$1"; }
ask() { "$KUBECTL" -n "$namespace" "$@"; }
field() { ask get "$1" -o "jsonpath=$2" || fail "$1 cannot be read in the namespace $namespace"; }

while [ $# -gt 0 ]; do
    case $1 in
        -n | --namespace) namespace=${2:?$1 needs a namespace}; shift 2 ;;
        -t | --target) target=${2:?$1 needs rayjob/NAME or raycluster/NAME}; shift 2 ;;
        --keep) keep=yes; shift ;;
        --dry-run) dry_run=yes; shift ;;
        -h | --help) usage 0 ;;
        -*) refuse "there is no option $1; --help lists them" ;;
        *) break ;;
    esac
done
[ $# -eq 2 ] || [ $# -eq 3 ] || usage 2 >&2
group=$1 min=$2 max=${3:-$2}
for number in "$min" "$max"; do
    [[ $number =~ ^(0|[1-9][0-9]{0,3})$ ]] || refuse "a number of pods is a whole number from 0 to $MOST, got '$number'"
    [ "$number" -le "$MOST" ] || refuse "a number of pods is a whole number from 0 to $MOST, got '$number'"
done
[ "$min" -le "$max" ] || refuse "MIN is at most MAX, got $min and $max"

case $target in
    rayjob/?*)
        name=$(field "$target" '{.status.rayClusterName}')
        [ -n "$name" ] || refuse "$target has no cluster yet; edit its manifest, or wait until \`$KUBECTL -n $namespace get $target\` names one"
        cluster=raycluster/$name ;;
    raycluster/?*)
        [ -z "$keep" ] || refuse "--keep is for a RayJob; a RayCluster keeps what it is given"
        cluster=$target ;;
    *) refuse "the target is rayjob/NAME or raycluster/NAME, got '$target'" ;;
esac

# The patch of one object whose groups lie below $2: the group's place is looked up there, for it may differ between the two.
patch_of() {
    local names index=0 found='' name role
    names=$(field "$1" "{$2.workerGroupSpecs[*].groupName}")
    for name in $names; do
        if [ "$name" = "$group" ]; then found=$index; fi
        index=$((index + 1))
    done
    [ -n "$found" ] || refuse "$1 has no group '$group'; it has ${names:-none}"
    role=$(field "$1" "{$2.workerGroupSpecs[$found].labels.rlvr\\.io/role}")
    [ "$role" != learner ] || refuse "the group '$group' holds the learner, whose size is learner.ranks of the run file; start a new attempt with another one"
    local path="${2//./\/}/workerGroupSpecs/$found"
    printf '[{"op":"test","path":"%s/groupName","value":"%s"},' "$path" "$group"
    printf '{"op":"add","path":"%s/minReplicas","value":%d},{"op":"add","path":"%s/maxReplicas","value":%d}' "$path" "$min" "$path" "$max"
    # Under the autoscaler `replicas` is the autoscaler's: it raises them to the new minimum and chooses who goes above the new maximum.
    if [ "$(field "$1" "{$2.enableInTreeAutoscaling}")" != true ]; then printf ',{"op":"add","path":"%s/replicas","value":%d}' "$path" "$min"; fi
    printf ']\n'
}

apply() {
    if [ -n "$dry_run" ]; then echo "$KUBECTL -n $namespace patch $1 --type=json -p '$2'"; return; fi
    ask patch "$1" --type=json -p "$2" >/dev/null || fail "$1 was not changed: its groups are others than a moment ago, or the API server refused"
    echo "$1: group $group has $min to $max pods"
}

change=$(patch_of "$cluster" .spec)
kept=''
if [ -n "$keep" ]; then kept=$(patch_of "$target" .spec.rayClusterSpec); fi
apply "$cluster" "$change"
if [ -n "$keep" ]; then apply "$target" "$kept"; fi
