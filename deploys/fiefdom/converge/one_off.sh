# One command in a container of its own, made as an instance is: of its image, with its environment, files, volumes, limits
# and network, and without a port. Ends with the command's exit code.
#   NAME       of the container
#   CONF       what the supervisor reads about the instance; `-SERVICE` for that of an instance of the service here
#   FOLDER     removed at the end, with what was placed there for this container; empty for none
#   LIMIT_S    seconds after which it is stopped; 0 for no limit
#   WORD...    the command, in place of the image's own entry point and command
# Standard input is the operator: when it ends, or says nothing for a while, the container is stopped. What comes after the line `fiefdom-begun` is the
# command's; without that line, the errors say why nothing began. one_off.py writes for it and reads it.
set -u
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
name=$1 conf=$2 folder=$3 limit_s=$4
shift 4
conf_dir=/etc/fiefdom/containers
folders=/var/lib/fiefdom/one-off
docker_s=60
restart_s=120 # for a dockerd that does not answer
silent_s=30   # of an operator, who gives a sign each few seconds
# Caught and not ignored, for the command would inherit that.
trap : PIPE

tidy() {
    case $folder in "$folders"/?*) rm -rf "$folder" ;; esac
}

fail() {
    printf '%s\n' "$*" >&2
    tidy
    exit 1
}

# Sets conf: that of an instance which runs, else that of any. A service may be called as another one with a number.
find_conf() { # service
    conf=
    for each in "$conf_dir/$1"-*.conf; do
        port=${each#"$conf_dir/$1-"}
        port=${port%.conf}
        case $port in '' | *[!0-9]*) continue ;; esac
        [ -n "$conf" ] || conf=$each
        [ "$(timeout "$docker_s" docker inspect --type container --format '{{.State.Running}}' "$1-$port" 2>/dev/null)" != true ] || {
            conf=$each
            break
        }
    done
    [ -n "$conf" ] || fail "no instance of $1 is set up here"
}

of_conf() { sed -n "s/^$1 //p" "$conf"; } # key

# Of what runs, the image is what it was made from, whatever has its name by now.
find_image() {
    image=
    [ "$live" != yes ] || image=$(timeout "$docker_s" docker inspect --type container --format '{{.Image}}' "$instance" 2>/dev/null) || image=
    [ -n "$image" ] || image=$(of_conf image)
    found=$(timeout "$docker_s" docker image inspect --format '{{.Id}} {{.Config.User}}' "$image" 2>&1) || {
        case $found in *"o such image"*) fail "the image $image is not here" ;; esac
        fail "docker does not answer: $found"
    }
    grep -q '^arg --user=' "$conf" || require_user "${found#* }"
}

require_user() { # as the image has it
    case ${1%%:*} in
    '' | root | 0*) fail "$image would run as root: give the service a user, such as 1000:1000, or the Dockerfile a USER" ;;
    esac
}

# What a user's name stands for is the image's own word: only the process tells.
watch_user() {
    while sleep 0.1; do
        pid=$(docker inspect --type container --format '{{.State.Pid}}' "$name") || continue
        [ "$pid" -gt 0 ] || continue
        ! grep -qE '^Uid:.*[[:space:]]0([[:space:]]|$)' "/proc/$pid/status" || kill -s USR2 $$
        return
    done
}

watch_operator() {
    until [ -z "$(timeout "$silent_s" head -c 1)" ]; do :; done
    kill -s HUP $$
}

# In short sleeps, for one that is left behind would go on to its end.
watch_time() {
    until [ "$limit_s" = 0 ]; do
        sleep 1
        limit_s=$((limit_s - 1))
    done
    kill -s USR1 $$
}

# Of one that is made and not started yet, Docker says that it is stopped.
# shellcheck disable=SC2329 # by a trap
halt() {
    while kill -0 "$command"; do
        stop
        sleep 0.3
    done
}

stop() { timeout $((grace_s + docker_s)) docker stop "$name"; }

# Sets state: how a container is; empty where there is none. Fails where Docker does not say.
look() { # container
    state=$(timeout "$docker_s" docker inspect --type container --format '{{.State.Status}}' "$1" 2>&1) && return
    case $state in *"o such container"*) state='' ;; *) return 1 ;; esac
}

# Docker's client may end and the container not: where its outputs broke, or dockerd began anew. Sets left: how it was.
clear_away() {
    left='' until_s=$(($(now_s) + restart_s))
    while [ "$(now_s)" -lt "$until_s" ]; do
        if ! look "$name"; then
            left=${left:-unknown}
        elif [ -z "$state" ]; then
            return 0
        elif [ "$state" != removing ]; then
            left=${left:-$state}
            ! { stop && timeout "$docker_s" docker rm --force "$name"; } >/dev/null 2>&1 ||
                until_s=$(($(now_s) + restart_s)) # its grace is not Docker's
        fi
        sleep 0.3
    done
    return 1
}

now_s() { cut -d . -f 1 /proc/uptime; }

# A host that lost its power leaves secrets behind.
sweep() {
    for each in "$folders"/fiefdom-run-*; do
        [ -d "$each" ] && [ "$each" != "$folder" ] || continue
        look "${each##*/}" && [ -z "$state" ] && rm -rf "$each"
    done
}

# Two migrations at once may be the end of a database.
require_alone() { # service
    found=$(timeout "$docker_s" docker ps --filter "label=fiefdom.release=$1" --format '{{.Names}}' 2>&1) ||
        fail "docker does not answer: $found"
    [ -z "$found" ] || fail "an earlier release command of $1 is still at work here, in the container $(printf %s "$found" | tr '\n' ' ')"
}

live=no
case $conf in -*)
    live=yes
    find_conf "${conf#-}"
    ;;
esac
[ -r "$conf" ] || fail "$conf is not here"
instance=${conf##*/}
instance=${instance%.conf}
release=$(of_conf release)
[ -z "$release" ] || require_alone "$release"
[ -z "$folder" ] || sweep
find_image

first=$1 grace_s=10
shift
set -- --entrypoint "$first" "$image" "$@"
while IFS= read -r line; do
    case $line in
    # A port is an instance's, a label is what a plan knows it by.
    "arg --publish="* | "arg --label="*) ;;
    "arg "*) set -- "${line#arg }" "$@" ;;
    "stop_signal "*) set -- --stop-signal "${line#* }" "$@" ;;
    "stop_grace_s "*)
        grace_s=${line#* }
        set -- --stop-timeout "$grace_s" "$@"
        ;;
    "release "*) set -- --label "fiefdom.release=${line#* }" "$@" ;;
    esac
done <"$conf"

late=no root=no command=0 broken=''
trap '(halt) >/dev/null 2>&1 &' HUP INT TERM
trap 'late=yes; (halt) >/dev/null 2>&1 &' USR1
trap 'root=yes; (halt) >/dev/null 2>&1 &' USR2
exec 3<&0 </dev/null
echo fiefdom-begun || fail "nobody listens"
docker run --rm --name "$name" --pull never --label "fiefdom.run=$instance" "$@" 3<&- &
command=$!
# In parentheses, without which a shell would keep its own outputs open in them, and sshd wait for their end.
(watch_user) >/dev/null 2>&1 3<&- &
watchers=$!
(watch_operator) <&3 >/dev/null 2>&1 &
watchers="$watchers $!"
[ "$limit_s" = 0 ] || {
    (watch_time) >/dev/null 2>&1 3<&- &
    watchers="$watchers $!"
}
exec 3<&-
# A signal ends a wait; the command itself may go on for as long as its grace.
while :; do
    code=0
    wait "$command" || code=$?
    kill -0 "$command" 2>/dev/null || break
done
trap '' HUP INT TERM PIPE USR1 USR2
# A shell that has just begun may lose any other signal.
# shellcheck disable=SC2086 # several
kill -s KILL $watchers 2>/dev/null
[ "$root" = no ] || {
    echo "fiefdom: its process is root's; give the service a user, such as 1000:1000, or the Dockerfile a USER" >&2
    code=1
}
# With --rm it is gone, unless the client ended before it.
if clear_away; then
    tidy
    [ -z "$left" ] || broken="its container is gone"
else
    broken="the container $name may be at work still"
fi
[ -z "$broken" ] || {
    echo "fiefdom: the connection to Docker broke off; $broken" >&2
    [ "$code" != 0 ] || code=1
}
[ "$late" = no ] || code=124
exit "$code"
