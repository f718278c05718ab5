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
# Pods beyond MAX are named to the operator, the youngest first: it ends them by SIGTERM, on which they drain. Only then is maxReplicas lowered, for
# the autoscaler stops what is above it at once, in the middle of its work.
#
# With generators.count = "auto" the run follows its generator pods. Verifiers follow their actors: `firesteel scale RUN_DIR --verifiers N` in the head.
# The learner's size is learner.ranks and does not change while a run lives. Exit code 2: refused, nothing was changed.
set -euo pipefail
KUBECTL=${KUBECTL:-kubectl}
MOST=256   # generators.max and verifiers.max of a run file that says nothing else
LEAVE_S=60 # within which the operator ends a pod that was named to it
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
    [[ $number =~ ^(0|[1-9][0-9]{0,3})$ ]] && [ "$number" -le "$MOST" ] || refuse "a number of pods is a whole number from 0 to $MOST, got '$number'"
done
[ "$min" -le "$max" ] || refuse "MIN is at most MAX, got $min and $max"

case $target in
    rayjob/?*)
        name=$(field "$target" '{.status.rayClusterName}')
        [ -n "$name" ] || refuse "$target has no cluster yet; edit its manifest, or wait until \`$KUBECTL -n $namespace get $target\` names one" ;;
    raycluster/?*)
        [ -z "$keep" ] || refuse "--keep is for a RayJob; a RayCluster keeps what it is given"
        name=${target#raycluster/} ;;
    *) refuse "the target is rayjob/NAME or raycluster/NAME, got '$target'" ;;
esac
cluster=raycluster/$name

place_of() { # of the group in object $1, whose groups lie below $2: it may differ between a job and its cluster
    local names index=0 found='' one role
    names=$(field "$1" "{$2.workerGroupSpecs[*].groupName}")
    for one in $names; do
        if [ "$one" = "$group" ]; then found=$index; fi
        index=$((index + 1))
    done
    [ -n "$found" ] || refuse "$1 has no group '$group'; it has ${names:-none}"
    role=$(field "$1" "{$2.workerGroupSpecs[$found].labels.rlvr\\.io/role}")
    [ "$role" != learner ] || refuse "the group '$group' holds the learner, whose size is learner.ranks of the run file; start a new attempt with another one"
    echo "${2//./\/}/workerGroupSpecs/$found"
}

test_of() { printf '{"op":"test","path":"%s/groupName","value":"%s"}' "$1" "$group"; }
set_of() { printf ',{"op":"add","path":"%s/%s","value":%s}' "$1" "$2" "$3"; }

apply() {
    if [ -n "$dry_run" ]; then echo "$KUBECTL -n $namespace patch $1 --type=json -p '$2'"; return; fi
    ask patch "$1" --type=json -p "$2" >/dev/null || fail "$1 was not changed: its groups are others than a moment ago, or the API server refused"
}

surplus_pods() { # that stand above MAX, the youngest; what leaves already is told by the same answer that lists it
    local listed pod leaves standing=()
    listed=$(ask get pods -l "ray.io/cluster=$name,ray.io/group=$group" --sort-by=.metadata.creationTimestamp \
        -o 'jsonpath={range .items[*]}{.metadata.name}{" "}{.metadata.deletionTimestamp}{"\n"}{end}') || fail "the pods of $cluster cannot be listed"
    while read -r pod leaves; do
        if [ -n "$pod" ] && [ -z "$leaves" ]; then standing+=("$pod"); fi
    done <<<"$listed"
    if [ ${#standing[@]} -gt "$max" ]; then echo "${standing[@]:$max}"; fi
}

wait_for_leaving() {
    local pod state
    for pod in "$@"; do
        while :; do
            state=$(ask get "pod/$pod" --ignore-not-found -o 'jsonpath={.metadata.name}:{.metadata.deletionTimestamp}') || fail "pod/$pod cannot be read"
            case $state in '' | *:?*) break ;; esac
            [ $SECONDS -lt $LEAVE_S ] || fail "the operator has not ended pod/$pod within $LEAVE_S s; maxReplicas of $group is what it was"
            sleep 1
        done
    done
}

path=$(place_of "$cluster" .spec)
job_path=''
if [ -n "$keep" ]; then job_path=$(place_of "$target" .spec.rayClusterSpec); fi
autoscales=$(field "$cluster" '{.spec.enableInTreeAutoscaling}')
[ "$autoscales" = true ] || [ "$min" = "$max" ] || refuse "$cluster has no autoscaler that could choose between $min and $max; give one number"

bounds="$(set_of "$path" minReplicas "$min")$(set_of "$path" maxReplicas "$max")"
# `replicas` belong to the autoscaler where there is one: it raises them to minReplicas.
[ "$autoscales" = true ] || bounds+=$(set_of "$path" replicas "$min")

surplus=$(surplus_pods)
if [ -n "$surplus" ]; then
    names="[\"${surplus// /\",\"}\"]"
    apply "$cluster" "[$(test_of "$path")$(set_of "$path" minReplicas "$min")$(set_of "$path" replicas "$max")$(set_of "$path" scaleStrategy "{\"workersToDelete\":$names}")]"
    # shellcheck disable=SC2086 # names of pods have no spaces
    [ -n "$dry_run" ] || wait_for_leaving $surplus
fi
apply "$cluster" "[$(test_of "$path")$bounds]"
if [ -n "$keep" ]; then apply "$target" "[$(test_of "$job_path")$(set_of "$job_path" minReplicas "$min")$(set_of "$job_path" maxReplicas "$max")]"; fi
if [ -z "$dry_run" ]; then echo "$cluster${keep:+ and $target}: group $group has $min to $max pods${surplus:+; leaving: $surplus}"; fi
