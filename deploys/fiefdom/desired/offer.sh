#!/bin/sh
# Managed by Fiefdom: edit the inventory, not this file.
#
# Takes a service of this host into and out of the gateways' rotation, and waits for their word: no time is long enough
# to be sure, and none has to be waited for in vain. What is offered stands in /run until it is withdrawn, and the agent's
# tags follow from that, whenever the agent starts.
#   make SERVICE      when its instances answer: offer it, and wait until every gateway has them up
#   withdraw SERVICE  before an instance stops: until no gateway sends the service requests or has one open there
#   tags              before the agent starts: what it says from its first moment on
#   agree             after it has started: what has become of the offers meanwhile
#   leave             before the agent stops: until no gateway sends the host requests, whatever it offers
set -u

conf_dir=/etc/fiefdom/offers
host_conf=/etc/fiefdom/offers.conf
made_dir=/run/fiefdom/offers
container=/usr/local/lib/fiefdom/container
# How long the only gateway's agent may take to come back before it is believed that there is no gateway.
no_gateway_s=5
# How long the host's own agent may take to come back, and to find a gateway when it has just been started.
agent_s=10
join_gateway_s=2

# Why it ends is an error in the journal, as container.sh tells it.
die() {
  level=
  [ "${JOURNAL_STREAM:-}" != "$(stat -L -c %d:%i /proc/self/fd/2)" ] || level='<3>'
  printf '%s%s\n' "$level" "$*" >&2
  exit 1
}

load_host() {
  host='' join_timeout_s='' host_drain_timeout_s=''
  [ ! -r "$host_conf" ] || while IFS= read -r line; do
    value=${line#* }
    case ${line%% *} in
      host) host=$value ;;
      join_timeout_s) join_timeout_s=$value ;;
      drain_timeout_s) host_drain_timeout_s=$value ;;
    esac
  done < "$host_conf"
  [ -n "$host" ] && [ -n "$join_timeout_s" ] && [ -n "$host_drain_timeout_s" ] ||
    die "$host_conf is missing, or not whole"
}

load() {
  service=$1 word='' start_timeout_s='' drain_timeout_s='' containers='' wanted=0
  conf=$conf_dir/$service.conf
  [ ! -r "$conf" ] || while IFS= read -r line; do
    value=${line#* }
    case ${line%% *} in
      word) word=$value ;;
      start_timeout_s) start_timeout_s=$value ;;
      drain_timeout_s) drain_timeout_s=$value ;;
      container)
        containers="$containers $value"
        wanted=$((wanted + 1))
        ;;
    esac
  done < "$conf"
  [ -n "$word" ] && [ -n "$start_timeout_s" ] && [ -n "$drain_timeout_s" ] || die "$conf is missing, or not whole"
}

serf() {
  timeout 5 docker exec serf-agent serf "$@" 2> /dev/null
}

now_s() {
  read -r uptime _ < /proc/uptime
  printf '%s\n' "${uptime%.*}"
}

# --- What is offered

with_lock() {
  exec 9> "$made_dir/.lock"
  flock 9 || die "$made_dir/.lock cannot be locked"
}

# One line each: service and word. What is damaged was not offered.
list_made() {
  for made in "$made_dir"/*.offer; do
    [ -r "$made" ] || continue
    read -r offered < "$made" || continue
    case $offered in *[!A-Za-z0-9_.\;+-]* | '' | \;* | *\;) continue ;; esac
    made=${made##*/}
    printf '%s %s\n' "${made%.offer}" "$offered"
  done
}

# The agent reads it as a user of its own, and none of it is a secret.
write_made() { # path, text on stdin
  (umask 022 && cat > "$1.new") && mv "$1.new" "$1"
}

# What a starting agent reads beside its own configuration.
write_tags() {
  {
    printf '{"tags": {"role": "app"'
    list_made | while read -r name offered; do
      printf ', "svc:%s": "%s"' "$name" "$offered"
    done
    printf '}}\n'
  } | write_made "$made_dir/tags.json" || die "$made_dir/tags.json cannot be written"
}

# The agent's own word against what stands in /run: it may have read that before the last offer was made or withdrawn.
agree_with_agent() {
  said=$(serf info -format=json) || return 1
  said=$(printf '%s\n' "$said" | sed -n 's/^ *"svc:\([^"]*\)": "\([^"]*\)",\{0,1\}$/\1 \2/p' | sort)
  made=$(list_made | sort)
  [ "$said" != "$made" ] || return 0
  set --
  for name in $(printf '%s\n' "$said" | cut -d ' ' -f 1); do
    printf '%s\n' "$made" | grep -q "^$name " || set -- "$@" -delete "svc:$name"
  done
  while read -r name offered; do
    [ -z "$name" ] || set -- "$@" -set "svc:$name=$offered"
  done << MADE
$made
MADE
  serf tags "$@" > /dev/null
}

# --- What gateways say

# One that leaves still has requests.
list_gateways() {
  serf members -status='alive|leaving' -tag role=gateway -format=text
}

# What is done in the agent's container, by one start of a program there, for that takes as long as all the rest. Prints
# "told" when the agent says of itself what it was told; then the gateways that it knows, "--", and their answers until
# all have answered.
#   `serf tags` returns when all have heard it, some rounds of gossip later. Whether it is served a host may ask at once;
#   that it offers nothing any more must have been heard before anybody is asked for an end.
#   One question of this host at a time: Serf may give two of the same moment one number, and then loses an answer.
#   Nothing is left behind: there is nobody in the container who would reap it.
# shellcheck disable=SC2016 # the container's shell expands it
consult='
  word=$1 about=$2 patience=$3 lock=$4
  shift 4
  case $#:${1:-} in
    0:) ;;
    2:-set)
      serf tags "$@" > /dev/null &
      telling=$!
      until serf info -format=json | grep -qF "\"${2%%=*}\": \"${2#*=}\""; do
        kill -0 "$telling" && continue
        wait "$telling" && break
        exit 1
      done
      kill "$telling"
      wait
      ;;
    *) serf tags "$@" > /dev/null || exit 1 ;;
  esac
  [ $# = 0 ] || echo told
  exec 8< "$lock"
  flock -w 5 8 || exit 1
  {
    serf query -no-ack -timeout="$patience" -tag role=gateway "fiefdom-$word" "$about" &
    echo "$!"
    wait
  } | {
    read -r asking
    left=0
    # It has to be there, and known, for the question to have gone to all.
    if gateways=$(serf members -status="alive|leaving" -tag role=gateway -format=text); then
      while read -r gateway; do
        [ -z "$gateway" ] || left=$((left + 1))
      done << GATEWAYS
$gateways
GATEWAYS
      printf "%s\n--\n" "$gateways"
    fi
    while [ "$left" -gt 0 ] && read -r line; do
      case $line in "Response from "*) left=$((left - 1)) ;; esac
      printf "%s\n" "$line"
    done
    kill "$asking"
  }
'

ask() { # word payload [arguments of `serf tags`]
  asked_word=$1 asked_about=$2
  shift 2
  timeout 10 docker exec serf-agent sh -c "$consult" sh "$asked_word" "$asked_about" "${patience_ms}ms" \
    "$made_dir/.ask" "$@" 2> /dev/null
}

# The next service of this host need not wait for what gateways say of this one.
unlock_when_told() {
  while IFS= read -r line; do
    [ "$line" != told ] || flock -u 9
    printf '%s\n' "$line"
  done
}

# Sets told, gateways, agreed and answers by what `ask` printed. An agent that does not answer is no agreement.
understand() { # word text
  told=no listed=no gateways=0 agreed=0 answers=
  while IFS= read -r line; do
    case $line in
      told) told=yes ;;
      --) listed=yes ;;
      'Response from '*)
        answers="$answers${answers:+, }$line"
        case $line in *": $1") agreed=$((agreed + 1)) ;; esac
        ;;
      ?*) [ "$listed" = yes ] || gateways=$((gateways + 1)) ;;
    esac
  done << SAID
$2
SAID
  [ "$listed" = yes ] || gateways=1
}

# Asks every gateway that is there until all answer with the one word, or the time is up. That none is there is an
# agreement only after some seconds. Where the agent is to be told something first, it is told until it says so itself,
# under the caller's lock; fails where the agent is not there, and is not about to be either. What is withdrawn is told
# for as long as it may drain, and again where a gateway still hears of it: one that was told of the offer by a start that
# was ended half way may have been slower than that end.
until_all_say() { # word payload timeout_s none_s [arguments of `serf tags`]
  word=$1 about=$2 timeout_s=$3 none_s=$4
  shift 4
  # A gateway holds a question for 400 ms, and an agent tells others every 200 ms.
  patience_ms=750
  began_s=$(now_s)
  tell_s=$agent_s was_told=no
  [ "$word" != drained ] || [ "$timeout_s" -le "$tell_s" ] || tell_s=$timeout_s
  [ $# -gt 0 ] || was_told=yes
  answers=
  while :; do
    case $was_told:$answers in
      no:*) said=$(ask "$word" "$about" "$@" | unlock_when_told) ;;
      yes:*' still offers '*)
        [ $# = 0 ] || flock 9
        said=$(ask "$word" "$about" "$@")
        [ $# = 0 ] || flock -u 9
        ;;
      *) said=$(ask "$word" "$about") ;;
    esac
    understand "$word" "$said"
    if [ "$was_told:$told" = no:no ]; then
      case $(systemctl is-active fiefdom-serf-agent.service) in inactive | failed) return 1 ;; esac
      if [ "$(now_s)" -ge $((began_s + tell_s)) ]; then
        [ "$word" != drained ] || printf 'going on after %s s: the agent was not told of %s\n' "$tell_s" "$about" >&2
        return 1
      fi
      sleep 0.1
      continue
    fi
    [ "$was_told:$word" != no:serving ] || began_s=$(now_s)
    was_told=yes
    [ "$patience_ms" -ge 1600 ] || patience_ms=$((patience_ms * 2))
    if [ "$gateways" -gt 0 ] || [ "$(now_s)" -ge $((began_s + none_s)) ]; then
      [ "$agreed" -lt "$gateways" ] || return 0
    fi
    if [ "$(now_s)" -ge $((began_s + timeout_s)) ]; then
      printf 'going on after %s s: of %s gateways %s say "%s" of %s: %s\n' \
        "$timeout_s" "$gateways" "$agreed" "$word" "$about" "$answers" >&2
      return 0
    fi
    # Hosts that began in one moment, as after a power cut, ask apart.
    sleep "0.$((105 + $(od -An -N1 -tu1 /dev/urandom) % 100))"
  done
}

# It has just been asked to start: until it has joined, it knows no gateway that could be asked.
await_gateway() {
  deadline_s=$(($(now_s) + join_gateway_s))
  until list_gateways | grep -q .; do
    [ "$(now_s)" -lt "$deadline_s" ] || return 1
    sleep 0.1
  done
}

# --- Instances

count_answering() {
  # shellcheck disable=SC2086 # names without blanks
  answering=$("$container" answering $containers)
  count=$(printf '%s\n' "$answering" | grep -c '^[^:][^:]*$')
}

# The reason of one that is not healthy; that of one that answers tells most.
why_not() {
  printf '%s\n' "$answering" | grep -m 1 ': answered' || printf '%s\n' "$answering" | grep -m 1 ': '
}

# Whether one that does not answer is on its way still: its unit has not come to the end of its first start.
may_come() {
  for name in $containers; do
    ! printf '%s\n' "$answering" | grep -qx "$name" || continue
    port=${name##*-}
    shown=$(systemctl show -p SubState -p NRestarts "fiefdom-$service@$port.service")
    case $shown in
      *SubState=running*) return 0 ;;
      *SubState=start*) case $shown in *NRestarts=0*) return 0 ;; esac ;;
    esac
  done
  return 1
}

# Those that do not come up are the gateways' checks to keep out: the others serve.
await_instances() {
  deadline_s=$(($(now_s) + start_timeout_s)) told_of=
  while :; do
    count_answering
    [ "$count" -lt "$wanted" ] || return 0
    if [ "$(now_s)" -ge "$deadline_s" ] || ! may_come; then break; fi
    [ "$told_of" = "$count" ] || tell_state "waits for its instances: $count of $wanted are healthy"
    told_of=$count
    sleep 0.2
  done
  [ "$count" -gt 0 ]
}

tell_state() {
  [ -z "${NOTIFY_SOCKET:-}" ] || systemd-notify --status="$*"
}

# --- Verbs

make() {
  load "$1"
  await_instances || {
    why=$(why_not)
    tell_state "not offered: none of its $wanted instances is healthy, $why"
    die "$service is not offered: none of its $wanted instances is healthy, $why"
  }
  (
    with_lock
    before=$(cat "$made_dir/$service.offer" 2> /dev/null)
    printf '%s\n' "$word" | write_made "$made_dir/$service.offer" && write_tags ||
      die "$made_dir/$service.offer cannot be written"
    until_all_say serving "$host $service $count" "$join_timeout_s" "$join_gateway_s" -set "svc:$service=$word" || {
      # What stands here is what was said: the next plan finds the rest.
      case $before in
        '') rm -f "$made_dir/$service.offer" ;;
        *) printf '%s\n' "$before" | write_made "$made_dir/$service.offer" ;;
      esac
      write_tags
      exit 1
    }
  ) || die "$service is not offered: the host's Serf agent does not answer"
  why=$(why_not)
  tell_state "offered: $count of $wanted instances are healthy${why:+, $why}"
  [ "$count" = "$wanted" ] || printf '%s is offered by %s of its %s instances: %s\n' "$service" "$count" "$wanted" "$why" >&2
}

withdraw() {
  load "$1"
  (
    with_lock
    [ -e "$made_dir/$service.offer" ] || exit 2
    rm -f "$made_dir/$service.offer"
    write_tags
    # An agent that is dead for good has nothing left to announce.
    until_all_say drained "$host $service" "$drain_timeout_s" "$no_gateway_s" -delete "svc:$service" || exit 2
  ) || return 0
}

agree() {
  (
    with_lock
    deadline_s=$(($(now_s) + agent_s))
    until agree_with_agent; do
      [ "$(now_s)" -lt "$deadline_s" ] || die "the agent was not told what this host offers: it does not answer"
      sleep 0.1
    done
  ) || exit 1
  await_gateway || return 0
  for name in $(list_made | cut -d ' ' -f 1); do
    load "$name"
    count_answering
    [ "$count" = 0 ] || until_all_say serving "$host $name $count" "$join_timeout_s" 0
  done
}

leave() {
  # An agent that is dead already has nothing left to announce.
  serf tags -set state=leaving > /dev/null || return 0
  until_all_say drained "$host" "$host_drain_timeout_s" "$no_gateway_s"
}

usage="usage: ${0##*/} make|withdraw SERVICE, or tags|agree|leave"
load_host
# The agent's container locks what it can only read.
{ mkdir -p "$made_dir" && : >> "$made_dir/.ask" && chmod 0644 "$made_dir/.ask"; } || die "$made_dir cannot be made"
case ${1:-}:$# in
  make:2) make "$2" ;;
  withdraw:2) withdraw "$2" ;;
  tags:1) (with_lock && write_tags) ;;
  agree:1) agree ;;
  leave:1) leave ;;
  *) die "$usage" ;;
esac
