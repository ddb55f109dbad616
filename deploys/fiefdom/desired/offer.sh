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
# Serf's limit for all tags of a member.
tags_max_bytes=512
newline='
'

# Why it ends is an error in the journal, as container.sh tells it.
say_why() {
  level=
  [ "${JOURNAL_STREAM:-}" != "$(stat -L -c %d:%i /proc/self/fd/2)" ] || level='<3>'
  printf '%s%s\n' "$level" "$*" >&2
}

die() {
  say_why "$@"
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

# --- How the agent says it

# Appends some digits of 6 bits to `packed`.
pack() { # number digits
  number=$1 bits=$((6 * $2))
  set -- A B C D E F G H I J K L M N O P Q R S T U V W X Y Z a b c d e f g h i j k l m n o p q r s t u v w x y z \
    0 1 2 3 4 5 6 7 8 9 - _
  while [ "$bits" -gt 0 ]; do
    bits=$((bits - 6))
    eval "packed=\$packed\${$(((number >> bits & 63) + 1))}"
  done
}

# Appends what a text's SHA-256 begins with, 18 bits of it.
pack_code() { # text
  hash=$(printf %s "$1" | sha256sum)
  pack $((0x${hash%"${hash#?????}"} >> 2)) 3
}

# Sets codes to those of a service and its version. They cost two programs, so they are kept beside the offer.
load_codes() { # service word
  codes_of='' codes=''
  [ ! -r "$made_dir/$1.codes" ] || read -r codes_of codes < "$made_dir/$1.codes"
  [ "$codes_of" != "$2" ] || [ "${#codes}" != 6 ] || return 0
  packed=
  pack_code "$1"
  pack_code "${2%%;*}"
  codes=$packed
  printf '%s %s\n' "$2" "$codes" | write_made "$made_dir/$1.codes"
}

# Sets packed to all offers in one tag, as the gateway's packed.py reads it.
pack_all() { # lines of service and word
  entries=
  while read -r name offered; do
    ports=${offered#*;}
    checks=${ports#*;}
    ports=${ports%%;*}
    [ "$checks" != "$ports" ] || checks=0
    first=${ports%-*}
    last=${ports#*-}
    case $first:$last:$checks in *[!0-9:]* | :* | *::* | *:) continue ;; esac
    load_codes "$name" "$offered"
    entries="$entries${entries:+$newline}$first $last $checks $codes"
  done << OFFERS
$1
OFFERS
  packed='' next=''
  while read -r first last checks codes; do
    [ -n "$next" ] || { pack $((first / 16)) 2 && next=$((first / 16 * 16)); }
    gap=$((first - next)) many=$((last - first + 1)) next=$((last + 1))
    [ "$gap" -ge 0 ] && [ "$gap" -lt 127 ] || gap=127
    [ "$many" -lt 16 ] || many=0
    packed=$packed$codes
    pack $((gap << 5 | many << 1 | (checks > 0))) 2
    [ "$gap" -lt 127 ] || pack "$first" 3
    [ "$many" -gt 0 ] || pack "$last" 3
    [ "$checks" = 0 ] || pack "$checks" 3
  done << ENTRIES
$(printf '%s\n' "$entries" | sort -n)
ENTRIES
}

# In MessagePack, of Serf's age.
count_string() { # length
  bytes=$((bytes + $1 + ($1 < 32 ? 1 : 3)))
}

# Sets tags to what the agent is to say beside its role, a line each, and shape to how: `plain` has a tag for each
# service, `packed` has all in one where Serf does not carry that. Fails where it carries neither.
choose_tags() {
  made=$(list_made)
  # The most that is ever said beside it is the word before the agent leaves.
  tags='' shape=plain bytes=4
  for text in role app state leaving; do count_string ${#text}; done
  beside=$((bytes - 2))
  [ -n "$made" ] || return 0
  while read -r name offered; do
    tags="$tags${tags:+$newline}svc:$name $offered"
    count_string $((${#name} + 4))
    count_string ${#offered}
  done << MADE
$made
MADE
  [ "$bytes" -gt "$tags_max_bytes" ] || return 0
  pack_all "$made"
  shape=packed tags="o $packed" bytes=$beside
  count_string 1
  count_string ${#packed}
  [ "$bytes" -le "$tags_max_bytes" ]
}

# What a starting agent reads beside its own configuration.
write_tags() {
  {
    printf '{"tags": {"role": "app"'
    printf '%s\n' "$tags" | while read -r key said; do
      [ -z "$key" ] || printf ', "%s": "%s"' "$key" "$said"
    done
    printf '}}\n'
  } | write_made "$made_dir/tags.json" || die "$made_dir/tags.json cannot be written"
}

# How the agent was told the last time.
told_shape() {
  case $(cat "$made_dir/tags.json" 2> /dev/null) in *' "o": '*) echo packed ;; *) echo plain ;; esac
}

# Runs a command with the arguments of `serf tags` that bring the agent from one shape's tags to the chosen ones, where
# the offer of one service was made or withdrawn. What is set for it comes first: a look at that tells that all is told.
with_changes() { # old shape, service, command...
  old=$1 about=$2
  shift 2
  own=
  case $old:$shape in
    plain:plain) while read -r key said; do [ "$key" != "svc:$about" ] || own=$said; done ;;
    *) while read -r key said; do
      case $key in
        '') ;;
        "svc:$about") own=$said ;;
        *) set -- "$@" -set "$key=$said" ;;
      esac
    done ;;
  esac << TAGS
$tags
TAGS
  case $old:$shape in
    plain:packed) for name in $(list_made | cut -d ' ' -f 1) "$about"; do set -- "$@" -delete "svc:$name"; done ;;
    packed:plain) set -- "$@" -delete o ;;
  esac
  case $shape:$own in
    packed:) ;;
    plain:) set -- "$@" -delete "svc:$about" ;;
    *) set -- "$@" -set "svc:$about=$own" ;;
  esac
  "$@"
}

# The agent's own word against what stands in /run: it may have read that before the last offer was made or withdrawn.
# Of a service that is named it is told once more, also where it says so already.
agree_with_agent() { # [service]
  again=${1:-}
  said=$(serf info -format=json) || return 1
  said=$(printf '%s\n' "$said" | sed -n -e 's/^ *"\(svc:[^"]*\)": "\([^"]*\)",\{0,1\}$/\1 \2/p' \
    -e 's/^ *"\(o\)": "\([^"]*\)",\{0,1\}$/\1 \2/p' | sort)
  choose_tags
  [ -n "$again" ] || [ "$said" != "$(printf '%s\n' "$tags" | sort)" ] || return 0
  set --
  for key in $(printf '%s\n' "$said" | cut -d ' ' -f 1); do
    printf '%s\n' "$tags" | grep -q "^$key " || set -- "$@" -delete "$key"
  done
  while read -r key offered; do
    [ -z "$key" ] || set -- "$@" -set "$key=$offered"
    [ "$key" != "svc:$again" ] || again=
  done << TAGS
$tags
TAGS
  [ -z "$again" ] || set -- "$@" -delete "svc:$again"
  serf tags "$@" > /dev/null
}

# What a gateway is asked by: one that sees the code of a version hears here which one that is.
about_served() { # service count word
  case $shape in
    packed) printf '%s %s %s %s\n' "$host" "$1" "$2" "${3%%;*}" ;;
    *) printf '%s %s %s\n' "$host" "$1" "$2" ;;
  esac
}

# Gateways of before know tags of services alone, and would take what they have of the host out.
list_blind() {
  serf members -status=alive -tag role=gateway -format=text | while read -r gateway _ _ said; do
    case ",$said," in *,reads=packed,*) ;; *) printf '%s\n' "$gateway" ;; esac
  done
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
  case $word:$#:${1:-} in
    *:0:) ;;
    serving:*:-set)
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
        # Since the lock was let go, others may have been offered and withdrawn: what is told is what stands now.
        [ $# = 0 ] || {
          flock 9
          agree_with_agent "${about#* }"
          flock -u 9
        }
        said=$(ask "$word" "$about")
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

# What stands here is what was said: the next plan finds the rest.
take_back() {
  case $before in
    '') rm -f "$made_dir/$service.offer" ;;
    *) printf '%s\n' "$before" | write_made "$made_dir/$service.offer" ;;
  esac
}

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
    was_shape=$(told_shape)
    printf '%s\n' "$word" | write_made "$made_dir/$service.offer" || die "$made_dir/$service.offer cannot be written"
    choose_tags || {
      take_back
      die "$service is not offered: what this host offers needs $bytes bytes and Serf carries $tags_max_bytes"
    }
    [ "$was_shape:$shape" != plain:packed ] || blind=$(list_blind | tr '\n' ' ')
    [ -z "${blind:-}" ] || {
      take_back
      die "$service is not offered: Serf carries that many only in a way that is new to ${blind% }; run \`fiefdom apply\` there"
    }
    write_tags
    with_changes "$was_shape" "$service" until_all_say serving "$(about_served "$service" "$count" "$word")" \
      "$join_timeout_s" "$join_gateway_s" || {
      take_back
      choose_tags
      write_tags
      exit 2
    }
  )
  case $? in
    0) ;;
    2) die "$service is not offered: the host's Serf agent does not answer" ;;
    *) exit 1 ;;
  esac
  why=$(why_not)
  tell_state "offered: $count of $wanted instances are healthy${why:+, $why}"
  [ "$count" = "$wanted" ] || printf '%s is offered by %s of its %s instances: %s\n' "$service" "$count" "$wanted" "$why" >&2
}

withdraw() {
  load "$1"
  (
    with_lock
    [ -e "$made_dir/$service.offer" ] || exit 2
    was_shape=$(told_shape)
    rm -f "$made_dir/$service.offer" "$made_dir/$service.codes"
    choose_tags
    write_tags
    # An agent that is dead for good has nothing left to announce.
    with_changes "$was_shape" "$service" until_all_say drained "$host $service" "$drain_timeout_s" "$no_gateway_s" ||
      exit 2
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
  choose_tags
  for name in $(list_made | cut -d ' ' -f 1); do
    load "$name"
    count_answering
    [ "$count" = 0 ] || until_all_say serving "$(about_served "$name" "$count" "$word")" "$join_timeout_s" 0
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
  tags:1) (with_lock && { choose_tags || :; } && write_tags) ;;
  agree:1) agree ;;
  leave:1) leave ;;
  *) die "$usage" ;;
esac
