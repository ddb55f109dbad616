# One command in an instance that runs, with this script's own input and outputs. Ends with the command's exit code.
#   TERMINAL  yes where the input is one
#   SERVICE
#   PORT      empty for the first that runs
#   WORD...   the command
# What the command began does not outlive the connection. inside.py writes for it.
set -u
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
terminal=$1 service=$2 port=$3
shift 3
docker_s=30

fail() {
    printf 'fiefdom: %s\n' "$*" >&2
    exit 1
}

# Prints the ports of the service's instances that run. A service may be called as another one with a number.
running() {
    for each in $names; do
        [ "${each%-*}" = "$service" ] || continue
        case ${each##*-} in *[!0-9]*) continue ;; esac
        printf '%s\n' "${each##*-}"
    done | sort -n
}

names=$(timeout "$docker_s" docker ps --filter label=fiefdom.role=instance --format '{{.Names}}' 2>&1) ||
    fail "docker does not answer: $names"
ports=$(running)
[ -n "$ports" ] || fail "no instance of $service runs here"
if [ -z "$port" ]; then
    port=$(printf '%s\n' "$ports" | head -n 1)
else
    printf '%s\n' "$ports" | grep -qx "$port" ||
        fail "$service-$port does not run here; these do: $(printf '%s\n' "$ports" | sed "s/^/$service-/" | paste -s -d ' ')"
fi

# The process of sshd's that this is a descendant of: it ends with the connection. Empty where there is none.
connection() {
    process=$PPID
    while [ "$process" -gt 1 ]; do
        case $(cat "/proc/$process/comm" 2>/dev/null) in sshd*)
            printf '%s\n' "$process"
            return
            ;;
        esac
        process=$(sed 's/.*) . \([0-9]*\) .*/\1/' "/proc/$process/stat" 2>/dev/null) || return 0
        [ -n "$process" ] || return 0
    done
}

# Docker leaves alone what it began for a client that is gone. All of that has the token in its environment. grep's exit
# code tells of processes that ended meanwhile.
# shellcheck disable=SC2016 # for another shell
end_with='
tail --pid="$1" --sleep-interval=0.5 -f /dev/null
# The command may end at the first sign, and this script with it, before the others have theirs.
trap "" TERM
for sign in TERM KILL; do
    left=$(grep -l -a -s -z "^FIEFDOM_EXEC=$2\$" /proc/[0-9]*/environ)
    for path in $left; do
        process=${path#/proc/}
        kill -s "$sign" "${process%/environ}"
    done
    [ -z "$left" ] || sleep 2
done
'

token=$(cat /proc/sys/kernel/random/uuid)
watcher=
sshd=$(connection)
[ -z "$sshd" ] || {
    # In a session of its own, for that of a terminal is hung up, and sudo kills what it began there.
    setsid sh -c "$end_with" fiefdom "$sshd" "$token" </dev/null >/dev/null 2>&1 &
    watcher=$!
}
set -- --env "FIEFDOM_EXEC=$token" "$service-$port" "$@"
[ "$terminal" != yes ] || set -- --tty --env "TERM=${TERM:-xterm}" "$@"
docker exec --interactive "$@"
code=$?
[ -z "$watcher" ] || kill "$watcher" 2>/dev/null
exit "$code"
