#!/bin/sh
# Managed by Fiefdom: edit the inventory, not this file.
#
# Runs a job of a service, where that is this host's turn: each host that runs the service asks its own Serf agent who is
# alive, and the first of these in the job's configuration runs it. All others end well at once.
#   run SERVICE.JOB
#
# Its container is made as an instance is, of what this host's instances are made of now; see `once`.
# shellcheck disable=SC2154 # variables that `once` sets
set -u
export LC_ALL=C

jobs_dir=/etc/fiefdom/jobs
runs_dir=/var/lib/fiefdom/jobs
once=/usr/local/lib/fiefdom/once
# How long an agent that has just started may take to find others before it is believed that there are none.
alone_s=3

job='' began_s=''

say() {
  printf '%s\n' "$*" >&2
}

# Why it ends is an error in the journal, as container.sh tells it.
say_why() {
  level=
  [ "${JOURNAL_STREAM:-}" != "$(stat -L -c %d:%i /proc/self/fd/2)" ] || level='<3>'
  printf '%s%s\n' "$level" "$*" >&2
}

fail() {
  say_why "$@"
  [ -z "$began_s" ] || write_run "$(date +%s)" 1
  exit 1
}

load() {
  service='' host='' turns='' limit_s=''
  job_conf=$jobs_dir/$job.conf
  [ ! -r "$job_conf" ] || while IFS= read -r line; do
    value=${line#* }
    case ${line%% *} in
      service) service=$value ;;
      host) host=$value ;;
      turn) turns="$turns $value" ;;
      limit_s) limit_s=$value ;;
    esac
  done < "$job_conf"
  [ -n "$service" ] && [ -n "$host" ] && [ -n "$turns" ] && [ -n "$limit_s" ] || fail "$job_conf is missing, or not whole"
}

# --- Whose turn it is

# One that leaves says so before it has left.
list_alive() {
  listed=$(timeout 5 docker exec serf-agent serf members -status=alive -format=text 2> /dev/null) || return 1
  printf '%s\n' "$listed" | awk '$4 !~ /(^|,)state=leaving(,|$)/ { print $1 }'
}

# Sets first. Fails where the agent does not answer, or none of the hosts is alive: then this one is not either.
find_first() {
  first=${turns# }
  [ "$first" != "$host" ] || return 0 # nobody else could
  until_s=$(($(now_s) + alone_s))
  while :; do
    alive=$(list_alive) && printf '%s\n' "$alive" | grep -qvxF "$host" && break
    [ "$(now_s)" -lt "$until_s" ] || break
    sleep 0.3
  done
  for first in $turns; do
    ! printf '%s\n' "$alive" | grep -qxF "$first" || return 0
  done
  return 1
}

# --- Its last run

# How the run before ended: an exit code, late, stopped, or broken, where it has not come to its end; a dash for none.
last_outcome() {
  last='' before=-
  [ ! -r "$runs_dir/$job" ] || read -r _ last before < "$runs_dir/$job" || :
  [ "$last" != - ] || before=broken
  printf '%s\n' "${before:--}"
}

# Began, ended and how, for `status`; while it is at work, a dash and how the run before ended: a job that fails each
# time is not to look well in between. A host that has no room for the line runs the job all the same.
write_run() { # ended outcome
  { printf '%s %s %s\n' "$began_s" "$1" "$2" > "$runs_dir/.$job.new" && mv "$runs_dir/.$job.new" "$runs_dir/$job"; } ||
    say "$runs_dir/$job cannot be written"
}

run() {
  job=$1
  # Read whole, before anything else: an apply may replace it meanwhile.
  # shellcheck disable=SC1091 source-path=SCRIPTDIR source=once.sh
  . "$once" || fail "$once is missing"
  load
  name=fiefdom-job-$job
  # What a power cut left; systemd starts no second one beside one that runs.
  timeout "$docker_s" docker rm --force "$name" > /dev/null 2>&1
  find_first || {
    say "$job is not run here: this host is no member of the cluster now"
    return 0
  }
  [ "$first" = "$host" ] || {
    say "$job runs on $first"
    return 0
  }
  began_s=$(date +%s)
  find_conf "$service"
  instance=${conf##*/}
  find_image "${instance%.conf}"
  set --
  while IFS= read -r line; do
    case $line in "word "*) set -- "$@" "${line#word }" ;; esac
  done < "$job_conf"
  write_run - "$(last_outcome)"
  see_through "fiefdom.job=$job" "$@"
  outcome=$code
  [ -z "$ended_by" ] || outcome=stopped
  [ "$late" = no ] || outcome=late
  write_run "$(date +%s)" "$outcome"
  case $outcome in
    late) say "$job was not at its end in time, and was stopped" ;;
    stopped) say "$job was stopped" ;;
  esac
  return "$code"
}

case ${1:-}:$# in
  run:2) run "$2" ;;
  *) fail "usage: ${0##*/} run SERVICE.JOB" ;;
esac
