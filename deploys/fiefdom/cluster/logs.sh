# Prints what containers of this host have said, a line each: `CONTAINER:TIMESTAMP TEXT`, or a piece of it where it is
# long. logs.py writes for it and reads it.
#   MODE     once: from the oldest to the newest line, and then the end; follow: as they come, without an end
#   SINCE    as `docker logs` takes it; empty for all that is kept
#   TAIL     how many lines of each container to begin with; empty for all
#   ROLE     of the containers, as their label has it: instance or gateway
#   SERVICE  empty for all
#   PORT     empty for all
# Standard input is who reads: when it ends, or says nothing for a while, so does all of this.
set -u
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mode=$1 since=$2 tail=$3 role=$4 service=$5 port=$6
silent_s=30 # of a reader, who gives a sign each few seconds
docker_s=30
look_s=1 # for containers that began meanwhile
# Bytes of a piece. With the container's name it is less than what a pipe takes from several writers without mixing them.
width=3500

fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

watch_reader() {
    until [ -z "$(timeout "$silent_s" head -c 1)" ]; do :; done
    kill -s HUP $$
}

# All that was started here is of this group, which sshd has made for it alone.
end_all() {
    trap '' HUP INT TERM
    rm -rf "$folder"
    kill -s KILL 0
}

# Prints `ID CONTAINER` of each container that is meant. One that a release has put aside has its instance's label.
meant() { # of `docker ps`
    found=$(timeout "$docker_s" docker ps --no-trunc --filter "label=fiefdom.role=$role" \
        --format '{{.ID}} {{.Names}} {{.Label "fiefdom.name"}}' "$@" 2>&1) || {
        printf '%s\n' "$found"
        return 1
    }
    printf '%s\n' "$found" | while read -r id name label; do
        [ -n "$id" ] || continue
        [ -z "$service" ] || case $label in "$service"-*) ;; *) continue ;; esac
        [ -z "$service" ] || case ${label#"$service-"} in *[!0-9]*) continue ;; esac
        [ -z "$port" ] || [ "${label##*-}" = "$port" ] || continue
        printf '%s %s\n' "$id" "$name"
    done
}

say() { # of `docker logs`
    docker logs --timestamps "$@" 2>&1 </dev/null
}

# --- Once: every container's lines are in order, so that one after the other can be taken, and no more be held

# What is no first piece gets the timestamp of the one before it, for the order.
in_pieces() { # container
    fold -b -w "$width" | sed -E "
        /^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{8,18}(Z|[-+][0-9:]{5,6}) /{h;s/ .*//;x;b name}
        G;s/^(.*)\n(.*)\$/\2+\1/
        :name
        s/^/$1:/"
}

once() {
    [ -n "$all" ] || return 0
    while read -r id name; do
        mkfifo "$folder/$name"
        { say ${since:+"--since=$since"} ${tail:+"--tail=$tail"} "$id" | in_pieces "$name" >"$folder/$name"; } &
    done <<ALL
$all
ALL
    set -- "$folder"/*
    # All of them at once, for it would write to the disk else.
    sort -m -s -t : -k 2,4 --batch-size="$(($# + 1))" -- "$@"
}

# --- Follow

# Leaves behind when it ended; its mark in the folder goes when it has.
follow_one() { # ID CONTAINER, of `docker logs`
    id=$1 name=$2
    shift 2
    say --follow "$@" "$id" | stdbuf -oL fold -b -w "$width" | grep -a -H --label="$name" --line-buffered ''
    date -u +%Y-%m-%dT%H:%M:%S.%NZ >"$folder/$id.ended"
    rm -f "$folder/$id"
}

# Prints since when a container runs, and when it ended before that.
times_of() { # ID
    timeout "$docker_s" docker inspect --type container --format '{{.State.StartedAt}} {{.State.FinishedAt}}' "$1" 2>/dev/null
}

# Follows each container that nobody follows. One that was followed has begun anew since, and goes on from where it ended;
# or dockerd has, and it goes on from when that was lost.
follow_new() { # of `docker logs`, for those that are new
    printf '%s\n' "$all" | while read -r id name; do
        [ -n "$id" ] || continue
        [ ! -e "$folder/$id" ] || continue
        seen=$(times_of "$id") || continue
        (
            if [ -e "$folder/$id.ended" ]; then
                IFS= read -r from <"$folder/$id.ended"
                [ "$(cat "$folder/$id.began")" = "${seen% *}" ] || from=${seen#* }
                set -- "--since=$from"
            fi
            printf '%s\n' "${seen% *}" >"$folder/$id.began"
            : >"$folder/$id"
            (follow_one "$id" "$name" "$@") &
        )
    done
}

follow() {
    follow_new ${since:+"--since=$since"} ${tail:+"--tail=$tail"}
    while :; do
        sleep "$look_s"
        # While dockerd is away, it is not for long.
        all=$(meant) || continue
        follow_new
    done
}

folder=$(mktemp -d) || fail "no folder for what is read"
trap 'rm -rf "$folder"' EXIT
trap end_all HUP INT TERM
exec 3<&0 </dev/null
all=$(meant --all) || fail "docker does not answer: $all"
(watch_reader) <&3 >/dev/null 2>&1 &
watcher=$!
exec 3<&-
# In the background, for the shell hears a signal only while it waits.
case $mode in
once) once & ;;
# Through a pipe, into which several can write at once: the end of sshd's that is here may be none.
follow) follow | cat & ;;
esac
wait $! || end_all
[ "$mode" = once ] || end_all
# A shell that has just begun may lose any other signal.
kill -s KILL "$watcher" 2>/dev/null
exit 0
