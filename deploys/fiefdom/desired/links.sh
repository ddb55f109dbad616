#!/bin/sh
# Managed by Fiefdom: edit the inventory, not this file.
#
# Lets containers of this host reach the ports of others that stand in links.conf, at the host's own address. Docker has
# each port lead to its container, and then drops what comes from another one on its bridge.
#   open    make it so, for these ports and no other
#   close   as it was before
#   show    the rules that stand
set -eu

conf=/etc/fiefdom/links.conf
chain=FIEFDOM-LINKS
bridge=docker0

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

# Prints the rules of a table's chain, which lead to the target.
rules() { # target
  printf ':%s - [0:0]\n' "$chain"
  address='' from=''
  while read -r word value; do
    case $word in
      address) address=$value ;;
      from) from=$value ;;
      port)
        printf -- '-A %s -s %s -p tcp -m conntrack --ctstate DNAT --ctorigdst %s --ctorigdstport %s -j %s\n' \
          "$chain" "$from" "$address" "$value" "$1"
        ;;
    esac
  done < "$conf"
}

# First in Docker's chain for others, and in the one behind its address translation.
leads() { # verb
  iptables -w "$1" DOCKER-USER -i "$bridge" -o "$bridge" -j "$chain"
}

leads_back() { # verb
  iptables -w -t nat "$1" POSTROUTING -o "$bridge" -j "$chain"
}

# Docker takes a chain of this name for its own where it comes later. The answer has to come back by this host: the
# bridge alone would bring it from an address that nobody asked.
open_ways() {
  [ -r "$conf" ] || die "$conf cannot be read"
  iptables -w -N DOCKER-USER 2> /dev/null || :
  {
    printf '*filter\n'
    rules ACCEPT
    printf 'COMMIT\n*nat\n'
    rules MASQUERADE
    printf 'COMMIT\n'
  } | iptables-restore -w --noflush
  leads -C 2> /dev/null || leads -I
  leads_back -C 2> /dev/null || leads_back -I
}

close_ways() {
  leads -D 2> /dev/null || :
  leads_back -D 2> /dev/null || :
  for table in filter nat; do
    iptables -w -t "$table" -F "$chain" 2> /dev/null || continue
    iptables -w -t "$table" -X "$chain"
  done
}

# Whether they are led to counts as well, for nobody comes to them otherwise.
show_ways() {
  leads -C && leads_back -C && iptables -w -S "$chain" && iptables -w -t nat -S "$chain"
}

case ${1:-} in
  open) open_ways ;;
  close) close_ways ;;
  show) show_ways ;;
  *) die "usage: ${0##*/} open|close|show" ;;
esac
