#!/bin/sh
# Managed by Fiefdom: edit the inventory, not this file.
#
# The address of all gateways together, as this one of them has it or gives it away.
#   interface   before keepalived starts: tell it which interface has the host's own address
#   serves      for keepalived, as nobody: whether this gateway is fit to hold the address
#   yield       before the gateway stops: it keeps who is connected, and sends all others to another gateway
#   left        after it has stopped: now the address goes as well
#   return      once it serves again: as if it had never been away
#   release     after keepalived has ended, however it did
set -eu
# Whatever the unit has that runs it: keepalived asks as nobody, and has to read what was noted.
umask 022

conf=/etc/fiefdom/address.conf
run=/run/fiefdom-address
leaving=$run/leaving
table=fiefdom-address
arp_ignore=/proc/sys/net/ipv4/conf/all/arp_ignore
move_limit_s=10
# Looks, ten a second, at which nobody came any more by the address where it was.
quiet_looks=10

say() { printf '%s\n' "$*"; }

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

# Words of the configuration: address, own, port, other.
word() { sed -n "s/^$1 //p" "$conf"; }

load() {
  [ -r "$conf" ] || die "$conf cannot be read"
  address=$(word address) own=$(word own) port=$(word port)
}

interface() { ip -o -4 address show to "$own/32" | awk '$2 != "lo" { print $2; exit }'; }

holds() { ip -o -4 address show to "$address/32" | awk '$2 != "lo" { found = 1 } END { exit !found }'; }

# For whom keepalived asks: draining, left, or nothing.
note() {
  mkdir -p "$run"
  printf '%s\n' "$1" > "$leaving.new"
  mv "$leaving.new" "$leaving"
}

noted() { cat "$leaving" 2> /dev/null || :; }

healthy() { curl --silent --fail --noproxy '*' --max-time 2 --output /dev/null "http://$1:$port/healthz"; }

tell_interface() {
  ! ip -4 route show table all | grep -q " via $address " || die "$address is a router to this host; choose a free one"
  # Without it, who does not hold the address would say all the same that it is here. In the first run it comes later.
  [ "$(cat "$arp_ignore")" -gt 0 ] || die "$arp_ignore is 0: keepalived waits for Fiefdom's kernel settings"
  found=$(interface)
  [ -n "$found" ] || die "no interface has this host's own address $own, beside which $address would stand"
  mkdir -p "$run"
  # shellcheck disable=SC2016 # keepalived's variable
  printf '$INTERFACE=%s\n' "$found" > "$run/interface.conf"
}

# While it drains, HAProxy does not listen any more, and the address stays all the same.
serves() {
  case $(noted) in
    draining) return 0 ;;
    left) return 1 ;;
  esac
  healthy "$own"
}

# The one that VRRP will choose: the others stand in the order of their priorities.
heir() {
  for other in $(word other); do
    ! healthy "$other" || {
      say "$other"
      return
    }
  done
}

# What belongs to no connection of this host goes on to the heir, as it came: that one answers the client itself. A
# connection that is just being made is one as well, though no process has it yet.
send_to() { # heir
  printf '%s\n' \
    "table ip $table" \
    "delete table ip $table" \
    "table ip $table {" \
    '  chain yield {' \
    '    type filter hook prerouting priority mangle; policy accept;' \
    "    ip daddr != $address accept" \
    '    meta l4proto != tcp accept' \
    '    ct state established,related accept' \
    '    socket wildcard 0 accept' \
    "    dup to $1 device \"$(interface)\"" \
    '    counter drop' \
    '  }' \
    '}' | nft -f -
}

yield_address() {
  # One that ended by itself has no connections left that could be spared.
  [ -n "${MAINPID:-}" ] || return 0
  if ! holds; then
    note left
    return
  fi
  to=$(heir)
  note draining
  if [ -z "$to" ]; then
    say "no other gateway serves: $address stays here until the last request has ended"
  elif send_to "$to"; then
    say "$address: who comes now goes on to $to; who is here stays until the last request has ended"
  else
    say "$address moves at once, for the kernel sends nobody on; connections that are open break"
    note left
  fi
}

leave() { [ -z "$(noted)" ] || note left; }

# Packets that have gone on to the heir; empty where none are sent there.
sent_on() { nft list table ip "$table" 2> /dev/null | sed -n 's/.*counter packets \([0-9]*\) .*/\1/p'; }

# What was sent on until now stays with the heir, so the address has to be there before this gateway takes anybody again.
# And so have its clients to be: for those that have not heard of the move yet, what they send comes here for a moment
# longer, and this gateway, which knows nothing of their connections, would reset them.
come_back() {
  if [ -n "$(noted)" ]; then
    tries=$((move_limit_s * 10)) quiet=0 before=none
    while [ $tries -gt 0 ] && [ $quiet -lt $quiet_looks ]; do
      now=$(sent_on)
      if holds; then
        quiet=0
      elif [ -z "$now" ]; then
        break
      elif [ "$now" = "$before" ]; then
        quiet=$((quiet + 1))
      else
        quiet=0
      fi
      before=$now
      sleep 0.1
      tries=$((tries - 1))
    done
  fi
  nft delete table ip "$table" 2> /dev/null || :
  rm -f "$leaving"
}

release() {
  for each in "$(interface)" lo; do
    [ -z "$each" ] || ip address delete "$address/32" dev "$each" 2> /dev/null || :
  done
}

case ${1:-} in
  interface | serves | yield | left | return | release) load ;;
  *) die "usage: ${0##*/} interface|serves|yield|left|return|release" ;;
esac
case $1 in
  interface) tell_interface ;;
  serves) serves ;;
  yield) yield_address ;;
  left) leave ;;
  return) come_back ;;
  release) release ;;
esac
