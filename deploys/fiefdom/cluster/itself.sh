# What a host itself tells of its part in a cluster, to whoever asks without an inventory. Its argument is `instances` or
# `member`. Changes nothing, and tells no secret. Prints, with tabs between:
#   docker WORD                  up, down, closed (to this user), or absent
#   wanted NAME                  a container that the host is to have
#   instance NAME STATE VERSION  one that it has, and Docker's word on it
#   offer SERVICE WORD           what it offers to gateways, as offer.sh keeps it
#   agent NAME                   the container of its Serf agent
#   info JSON, members JSON      what that agent says of itself and of all; nothing where it does not answer
# itself.py reads it.
set -u
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
tab=$(printf '\t')
socket=/run/docker.sock
conf_dir=/etc/fiefdom/containers
made_dir=/run/fiefdom/offers

ask() { timeout 20 docker "$@" 2>/dev/null </dev/null; }

docker_word() {
    if ! command -v docker >/dev/null; then
        echo absent
    elif [ -S "$socket" ] && [ ! -w "$socket" ]; then
        echo closed
    elif ask version >/dev/null; then
        echo up
    else
        echo down
    fi
}

# One that a release left under another name is none of the host's instances.
instances() {
    ask ps --all --filter label=fiefdom.role=instance \
        --format "{{.Names}}$tab{{.Label \"fiefdom.name\"}}$tab{{.State}}$tab{{.Label \"fiefdom.version\"}}" |
        awk -F "$tab" '$1 == $2 { print "instance\t" $1 "\t" $3 "\t" $4 }'
    find "$conf_dir" -name '*.conf' -type f 2>/dev/null | sed "s/.*\///; s/\.conf$//; s/^/wanted$tab/" | sort
    offers
}

offers() {
    find "$made_dir" -name '*.offer' -type f -exec grep -H . {} + 2>/dev/null |
        sed "s/.*\/\([^/]*\)\.offer:/offer$tab\1$tab/" | sort
}

# A gateway has its agent beside HAProxy.
member() {
    for container in gateway serf-agent; do
        [ -e "$conf_dir/$container.conf" ] || continue
        printf 'agent\t%s\n' "$container"
        for word in info members; do
            printf '%s\t%s\n' "$word" "$(ask exec "$container" serf "$word" -format=json | tr -d '\n')"
        done
        offers
        return
    done
}

printf 'docker\t%s\n' "$(docker_word)"
case ${2:-} in
instances) instances ;;
member) member ;;
esac
