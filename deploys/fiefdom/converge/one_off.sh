# One command in a container of its own, made as an instance is: of its image, with its environment, files, volumes, limits
# and network, and without a port. Ends with the command's exit code.
#   NAME       of the container
#   CONF       what the supervisor reads about the instance; `-SERVICE` for that of an instance of the service here
#   FOLDER     removed at the end, with what was placed there for this container; empty for none
#   LIMIT_S    seconds after which it is stopped; 0 for no limit
#   WORD...    the command, in place of the image's own entry point and command
# Standard input is the operator: when it ends, or says nothing for a while, the container is stopped. What comes after the line `fiefdom-begun` is the
# command's; without that line, the errors say why nothing began. one_off.py writes for it and reads it.
# shellcheck disable=SC2034,SC2154,SC2329 # what once.sh reads, sets and calls
set -u
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
name=$1 conf=$2 folder=$3 limit_s=$4
shift 4
folders=/var/lib/fiefdom/one-off
silent_s=30 # of an operator, who gives a sign each few seconds
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

# Here one_off.py puts how a container is made as an instance is, and seen through to its end, as jobs have it as well.
# @ONCE@

watch_operator() {
    until [ -z "$(timeout "$silent_s" head -c 1)" ]; do :; done
    kill -s HUP $$
}

# As once.sh asks.
watch_more() {
    (watch_operator) <&3 >/dev/null 2>&1 &
    watchers="$watchers $!"
}

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

running=''
case $conf in -*) find_conf "${conf#-}" && running=${conf##*/} && running=${running%.conf} ;; esac
[ -r "$conf" ] || fail "$conf is not here"
instance=${conf##*/}
instance=${instance%.conf}
release=$(of_conf release)
[ -z "$release" ] || require_alone "$release"
[ -z "$folder" ] || sweep
find_image "$running"

exec 3<&0 </dev/null
echo fiefdom-begun || fail "nobody listens"
see_through "fiefdom.run=$instance" "$@"
[ "$gone" = no ] || tidy
exit "$code"
