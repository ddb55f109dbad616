# What a host's Serf agent says of others, and whether gossip's way to them is open. Arguments: the agent's container, the
# gossip port, the others' role as their tags have it, how many milliseconds they may take to answer (0: they are not
# asked), then name and address of each of them. It tells, with tabs between:
#   members JSON      whom the agent lists, as `serf members` prints it; nothing where the agent does not answer. A gateway
#                     tells that by itself
#   closed NAME WHY   who takes no connection (TCP) from here
#   acks JSON         who answered a query of this agent, packet (UDP) by packet, as `serf query` prints it
# gossip.py reads it.
set -u
export LC_ALL=C
container=$1 port=$2 role=$3 patience_ms=$4
shift 4

serf() { timeout 10 docker exec "$container" serf "$@" 2>/dev/null </dev/null | tr -d '\n'; }

# An agent that gets a connection and no word says nothing of it.
# shellcheck disable=SC2016 # bash expands it
try() { # name address
    words=$(timeout 3 bash -c 'exec 3<>"/dev/tcp/$0/$1"' "$2" "$port" 2>&1) && return
    case $? in 124) words='no answer within 3 s' ;; *) words=${words##*: } ;; esac
    printf 'closed\t%s\t%s\n' "$1" "$words"
}

# One question of a host at a time, as offer.sh asks: Serf may give two of the same moment one number.
ask() {
    if [ -d /run/fiefdom/offers ]; then
        exec 8>/run/fiefdom/offers/.ask
        flock -w 3 8
    fi
    printf 'acks\t%s\n' "$(serf query -format=json -timeout="${patience_ms}ms" -tag "role=$role" fiefdom-hello)"
}

# Long lines are written in pieces: not beside those of others.
[ "$container" = gateway ] || printf 'members\t%s\n' "$(serf members -format=json)"
while [ $# -gt 0 ]; do
    try "$1" "$2" &
    shift 2
done
[ "$patience_ms" = 0 ] || acks=$(ask)
wait
[ "$patience_ms" = 0 ] || printf '%s\n' "$acks"
