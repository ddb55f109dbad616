#!/bin/sh
# Managed by Fiefdom: edit the inventory, not this file.
#
# Takes this host into and out of the gateways' rotation, and waits for their word: no time is long enough to be sure,
# and none has to be waited for in vain.
#   join    after the agent has started: until every gateway has all of the host's servers up
#   leave   before the agent stops: until no gateway sends the host requests or has one open there
set -u

conf=/etc/fiefdom/rotation.conf
# How long the only gateway's agent may take to come back before it is believed that there is no gateway.
no_gateway_s=5

die() {
  printf '%s\n' "$*" >&2
  exit 1
}

load() {
  name='' join_timeout_s='' drain_timeout_s=''
  [ ! -r "$conf" ] || while IFS= read -r line; do
    value=${line#* }
    case ${line%% *} in
      name) name=$value ;;
      join_timeout_s) join_timeout_s=$value ;;
      drain_timeout_s) drain_timeout_s=$value ;;
    esac
  done < "$conf"
  [ -n "$name" ] && [ -n "$join_timeout_s" ] && [ -n "$drain_timeout_s" ] || die "$conf is missing, or not whole"
}

serf() {
  timeout 5 docker exec serf-agent serf "$@" 2> /dev/null
}

now_s() {
  read -r uptime _ < /proc/uptime
  printf '%s\n' "${uptime%.*}"
}

# One that leaves still has requests.
list_gateways() {
  serf members -status='alive|leaving' -tag role=gateway -format=text
}

# Asks every gateway that is there until all answer with the one word, or the time is up. That none is there is an
# agreement only after some seconds.
until_all_say() { # word timeout_s none_s
  began_s=$(now_s)
  deadline_s=$((began_s + $2))
  while :; do
    # An agent that does not answer is no agreement.
    members=$(list_gateways) || members='no answer'
    gateways=$(printf '%s\n' "$members" | grep -c .)
    answers=$(serf query -no-ack -timeout=500ms -tag role=gateway "fiefdom-$1" "$name" | grep '^Response from ')
    agreed=$(printf '%s\n' "$answers" | grep -c ": $1\$")
    if [ "$gateways" -gt 0 ] || [ "$(now_s)" -ge $((began_s + $3)) ]; then
      [ "$agreed" -lt "$gateways" ] || return 0
    fi
    if [ "$(now_s)" -ge "$deadline_s" ]; then
      printf 'going on after %s s: of %s gateways %s say "%s": %s\n' "$2" "$gateways" "$agreed" "$1" "$answers" >&2
      return 0
    fi
    sleep 0.1
  done
}

case ${1:-} in
  join)
    load
    # It has just been asked to start: until it has joined, it knows no gateway that could be asked.
    deadline_s=$(($(now_s) + 2))
    until list_gateways | grep -q .; do
      [ "$(now_s)" -lt "$deadline_s" ] || exit 0
      sleep 0.1
    done
    until_all_say serving "$join_timeout_s" 0
    ;;
  leave)
    load
    # An agent that is dead already has nothing left to announce.
    serf tags -set state=leaving > /dev/null || exit 0
    until_all_say drained "$drain_timeout_s" "$no_gateway_s"
    ;;
  *) die "usage: ${0##*/} join|leave" ;;
esac
