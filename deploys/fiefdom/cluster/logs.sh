# Prints what containers of this host have said, a line each, or a piece of it where it is long. logs.py writes for it and
# reads it. A container may say anything, at the place where a piece ends too, so what begins a line is told by a word that
# no container knows.
#   once    CONTAINER:TIMESTAMP TEXT; of further pieces CONTAINER:TIMESTAMP+TEXT; of Docker's own words, which have no time,
#           CONTAINER:TIMESTAMP!TEXT; these two with the time of the line before
#   follow  as once, what there is, and at its end a line that begins with a colon; then
#           CONTAINER:TOKEN:TIMESTAMP TEXT; of further pieces CONTAINER:TEXT; and before lines that may have come already,
#           because Docker had to be asked anew, CONTAINER:TOKEN:=TIMESTAMP of when it was asked first
#   MODE     once: from the oldest to the newest line, and then the end; follow: then what comes, without an end
#   SINCE    as `docker logs` takes it; empty for all that is kept
#   TAIL     how many lines of each container to begin with; empty for all
#   ROLE     of the containers, as their label has it: instance or gateway
#   SERVICE  empty for all
#   PORT     empty for all
#   TOKEN    the word
# Standard input is who reads: when it ends, or says nothing for a while, so does all of this.
set -u
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mode=$1 since=$2 tail=$3 role=$4 service=$5 port=$6 token=$7
silent_s=30 # of a reader, who gives a sign each few seconds
docker_s=30
look_s=1 # for containers that began meanwhile
# Bytes of a piece. With the container's name it is less than what a pipe takes from several writers without mixing them.
width=3500
# Bytes after which a line is cut, for a program may never end one, and a line is held here.
whole=1048576
again_s=10 # that are asked for twice, where Docker's own end may have come before what it was about to say

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

# What has no timestamp of its own gets that of the one before it, for the order.
in_pieces() { # container
    fold -b -w "$whole" | sed "s/^/$token:/" | fold -b -w "$width" | sed -E "
        1{x;s/^/1970-01-01T00:00:00Z/;x}
        /^$token:/{
            s///
            /^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{8,18}(Z|[-+][0-9:]{5,6}) /{h;s/ .*//;x;b name
            }
            G;s/^(.*)\n(.*)\$/\2!\1/;b name
        }
        G;s/^(.*)\n(.*)\$/\2+\1/
        :name
        s/^/$1:/"
}

once() {
    [ -n "$all" ] || return 0
    mkdir "$folder/pieces"
    while read -r id name; do
        mkfifo "$folder/pieces/$name"
        { say ${since:+"--since=$since"} ${tail:+"--tail=$tail"} "$id" | in_pieces "$name" >"$folder/pieces/$name"; } &
    done <<ALL
$all
ALL
    set -- "$folder"/pieces/*
    # All of them at once, for it would write to the disk else.
    sort -m -s -t : -k 2,4 --batch-size="$(($# + 1))" -- "$@"
}

# --- Follow

now() { # [what `date` takes]
    date -u "$@" +%Y-%m-%dT%H:%M:%S.%NZ
}

# Its mark in the folder goes when it has ended. Of one that was asked before, what it had said then has come; or it has
# begun anew since, or dockerd has: it goes on from shortly before that, and says so, for nothing is to come twice.
follow_one() { # ID CONTAINER
    id=$1 name=$2
    set --
    if [ -e "$folder/$id.from" ]; then
        printf '%s:%s:=%s\n' "$name" "$token" "$(cat "$folder/$id.began")"
        set -- "--since=$(cat "$folder/$id.from")"
    else
        now >"$folder/$id.began"
    fi
    say --follow "$@" "$id" | stdbuf -oL fold -b -w "$whole" | grep -a -H --label="$token" --line-buffered '' |
        stdbuf -oL fold -b -w "$width" | grep -a -H --label="$name" --line-buffered ''
    now -d "-$again_s seconds" >"$folder/$id.from"
    rm -f "$folder/$id"
}

# Follows each container that nobody follows.
follow_new() {
    printf '%s\n' "$all" | while read -r id name; do
        [ -n "$id" ] || continue
        [ ! -e "$folder/$id" ] || continue
        : >"$folder/$id"
        (follow_one "$id" "$name") &
    done
}

follow() {
    for id in $(printf '%s\n' "$all" | cut -d ' ' -f 1); do
        now >"$folder/$id.began"
        now -d "-$again_s seconds" >"$folder/$id.from"
    done
    # Several that are followed come in no order, so what there is comes first, and is asked for apart.
    once
    printf ':\n'
    follow_new
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
