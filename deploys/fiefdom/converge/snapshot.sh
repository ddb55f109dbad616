# What a host holds, in one round trip. Reads a query on standard input and prints records of tab-separated
# fields; changes nothing. Needs sh, coreutils, findutils and, where it is there, docker.
# snapshot.py writes the query and reads the answer.
set -u
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
tab=$(printf '\t')
newline='
'
query=$(cat)

# Here snapshot.py puts facts_format and container_facts, as the supervisor has them between two such marks.
# @FACTS@

# And here what sshd is asked.
# @SSHD@

# And what it may have of its own.
# @GUEST@

ask() { printf '%s\n' "$query" | sed -n "s/^$1$tab//p"; }

printf 'snapshot\t1\n'
printf 'uid\t%s\n' "$(id -u)"
client=${1%% *} # the first word of SSH_CONNECTION
printf 'client\t%s\n' "$client"
# shellcheck disable=SC1091
os=$(. /etc/os-release && printf 'os\t%s\t%s\n' "${ID:-}" "${VERSION_CODENAME:-}")
printf '%s\n' "$os"
codename=${os##*"$tab"}
[ "$(id -u)" = 0 ] || exit 0 # nothing below is readable; the caller has words for it

docker_part() {
    command -v docker >/dev/null || return 0
    # All of them: an image stays that any container has, whoever made that.
    if ! containers=$(docker ps -a --no-trunc --format "{{.ID}}$tab{{.Label \"fiefdom.name\"}}$tab{{.Names}}" 2>/dev/null); then
        printf 'docker\tdown\n'
        return 0
    fi
    printf 'docker\tup\n'
    { ask image; other_images; } | xargs -d '\n' -r docker image inspect \
        --format "{{range .RepoTags}}image$tab{{.}}$tab{{\$.Id}}$tab{{index \$.Config.Labels \"fiefdom.context\"}}$tab{{range \$.RepoDigests}}{{.}} {{end}}{{println}}{{end}}$stored_format" 2>/dev/null | grep .
    # shellcheck disable=SC2154 # facts_format
    {
        ask container
        printf '%s\n' "$containers" | awk -F "$tab" '$2 != "" { print $3 }'
    } | sort -u | xargs -d '\n' -r docker inspect --type container \
        --format "$(ask container-format)
$facts_format" 2>/dev/null |
        while IFS= read -r line; do
            facts=$(container_facts | sha256sum)
            printf 'container\t%s\t%s\n' "$line" "${facts%% *}"
        done
    # One that is somebody's has nothing where ours have their name.
    case $containers in *"$tab$tab"*)
        printf '%s\n' "$containers" | awk -F "$tab" '$2 == "" { print $1 }' |
            xargs -d '\n' -r docker inspect --type container --format "used$tab{{.Image}}" 2>/dev/null
        ;;
    esac
    return 0
}

# Whose it is, since when it has a name here, whether it has one, and its layers from the base up.
stored_format="stored$tab{{.Id}}$tab{{index .Config.Labels \"fiefdom.context\"}}$tab{{json .Metadata.LastTagTime}}$tab{{if or .RepoTags .RepoDigests}}named{{end}}$tab{{range .RootFS.Layers}}{{.}} {{end}}"

# Ids of images that are not asked for by name: others of their repositories, what Fiefdom brought here once, what has no
# name; and all, where one that is asked for is yet to come: its layers may be here already.
other_images() {
    {
        printf '%s\n' "$query"
        cat /var/lib/fiefdom/manifest 2>/dev/null
        docker image ls --no-trunc --format "listed$tab{{.ID}}$tab{{.Repository}}$tab{{.Tag}}" 2>/dev/null
    } | awk -F "$tab" '
        $1 == "image" { asked[$2] }
        $1 == "repository" { of[$2] }
        $1 == "brought" { brought[$2] }
        $1 == "listed" { id[++count] = $2; repository[count] = $3; name[count] = $3 ":" $4; there[name[count]] }
        END {
            for (each in asked) if (!(each in there)) lacks = 1
            for (i = 1; i <= count; i++)
                if (!(name[i] in asked) && (lacks || repository[i] in of || name[i] in brought || repository[i] == "<none>")) print id[i]
        }' | sort -u
}

# What sshd makes of the drop-in that is wanted, in its place; where it is not there yet, who loses a login by it.
sshd_part() {
    wanted=$(ask "sshd$tab$codename")
    { [ -n "$wanted" ] && [ -x /usr/sbin/sshd ]; } || return 0
    path=${wanted%%"$tab"*}
    printf '%s' "${wanted#*"$tab"}" | base64 -d >"$own/candidate"
    sshd_judge "$path" "$own/candidate" "$own" | sed "s/^/sshd$tab/"
    ! cmp -s "$own/candidate" "$path" || return 0
    # shellcheck disable=SC2154 # as sshd.sh has it
    sshd_ways "$sshd_main" "$own" >"$own/before"
    # shellcheck disable=SC2046 # paths of keys
    sshd_ways "$own/main" "$own" $(ask file | grep '^/etc/ssh/') >"$own/after"
    awk -F "$tab" '
        NR == FNR { ways[$1] = $2; forwards[$1] = $3; next }
        !($1 in ways) || ways[$1] == "" { next }
        $2 == "" { print "loses\t" $1 "\t" ways[$1]; next }
        forwards[$1] != $3 && forwards[$1] != "no" && $3 != "yes" { print "unforwarded\t" $1 "\t" $3 }' "$own/before" "$own/after"
}

# What was there before Fiefdom's, as originals.sh keeps it, and whether what is there now is somebody else's.
originals_part() {
    kept=/var/lib/fiefdom/originals
    find "$kept" ! -type d -printf '/%P\n' 2>/dev/null | while IFS= read -r path; do
        word=changed
        if [ ! -e "$path" ] || cmp -s "$kept$path" "$path" ||
            grep -qxF "$(sha256sum <"$path" | cut -c 1-64)$tab$path" "$kept.placed" 2>/dev/null; then
            word=-
        fi
        printf 'original\t%s\t%s\n' "$path" "$word"
    done
    cut -f 1 "$kept.units" 2>/dev/null | sed "s/^/unit-before$tab/"
}

host_part() {
    printf 'hostname\t%s\t%s\n' "$(cat /proc/sys/kernel/hostname)" "$(cat /etc/hostname 2>/dev/null)"
    # Where Docker has its images, or is to have them: on the file system of the next folder above.
    root=${query%%"$newline"*}
    case $root in disk"$tab"/*) root=${root#*"$tab"} ;; *) root=/ ;; esac
    [ "$root" != /var/lib/docker ] || root=$(own_data_root | grep . || echo "$root")
    while [ ! -d "$root" ]; do
        root=${root%/*}
        root=${root:-/}
    done
    df -Pk /var/lib "$root" 2>/dev/null | awk 'NR == 2 { print "free-kib\t" $4 } NR == 3 { print "disk\t" $2 "\t" $4 }'
    paths=$(ask file)
    printf '%s\n' "$paths" | xargs -d '\n' -r stat --printf 'file\t%n\t%F\t%a\t%u\t%g\n' 2>/dev/null
    # A device would be read without an end, a pipe waited for.
    printf '%s\n' "$paths" | while IFS= read -r path; do
        [ ! -f "$path" ] || printf '%s\n' "$path"
    done | xargs -d '\n' -r sha256sum 2>/dev/null |
        sed -n "s/^\([0-9a-f]\{64\}\) [ *]\(.*\)$/digest$tab\2$tab\1/p"
    ask block | while IFS= read -r path; do
        # Its words are those of state.py.
        case $(sed -nE 's/^# fiefdom: (begin|end).*/\1/p' "$path" 2>/dev/null | tr '\n' ' ') in
        '') continue ;;
        'begin end ') found=$(sed -n '/^# fiefdom: begin/,/^# fiefdom: end/p' "$path" | sha256sum | cut -c 1-64) ;;
        *) found='' ;;
        esac
        printf 'block\t%s\t%s\n' "$path" "$found"
    done
    # What a login shows may be another at each call, and so it tells nothing.
    ask login | while IFS= read -r path; do
        [ ! -f "$path" ] ||
            printf 'digest\t%s\t%s\n' "$path" "$(sed 's/\("auth": "\)[^"]*/\1/' "$path" | sha256sum | cut -c 1-64)"
    done
    ask package | xargs -d '\n' -r dpkg-query -W \
        -f "package$tab\${Package}$tab\${db:Status-Status}$tab\${Version}$tab\${Architecture}\n" 2>/dev/null
    # Who has the names and the numbers that containers are to have.
    ask account | while IFS=$tab read -r name number; do
        getent passwd "$name" "$number" | awk -F : '{ print "user\t" $1 "\t" $3 "\t" $4 }'
        getent group "$name" "$number" | awk -F : '{ print "group\t" $1 "\t" $3 }'
    done
    ask unit | TZ=UTC xargs -d '\n' -r systemctl show -p Id -p LoadState -p ActiveState -p SubState -p UnitFileState \
        -p NeedDaemonReload -p ConditionResult -p ConditionTimestampMonotonic -p StatusText -p Job \
        -p NextElapseUSecRealtime -- 2>/dev/null | sed "s/^/unit$tab/"
    ask sysctl | xargs -d '\n' -r grep -H . 2>/dev/null | sed "s/^/sysctl$tab/"
    # What is read after Fiefdom's own settings at boot, and so has the last word.
    awk -F = 'FNR == 1 { name = FILENAME; sub(/.*\//, "", name) }
        name > "60-fiefdom.conf" && /^[ \t]*-?[ \t]*[a-z].*=/ { key = $1; gsub(/^[ \t-]*|[ \t]*$/, "", key); print "sysctl-by\t" key "\t" FILENAME }
        ' /dev/null /etc/sysctl.d/*.conf /run/sysctl.d/*.conf /usr/lib/sysctl.d/*.conf 2>/dev/null
    # Where Docker's networks lie, for its bridge may take the operator's place.
    [ ! -r /etc/docker/daemon.json ] || tr -d ' \t\n' </etc/docker/daemon.json | grep -oE '"(bip|base|size)":"?[^,}"]*' | sed "s/^/docker-network$tab/"
    [ ! -e /var/lib/fiefdom/guard/pending ] || {
        left=$(($(cat /var/lib/fiefdom/guard/until) - $(cut -d . -f 1 /proc/uptime)))
        # After a reboot, an uptime of before says nothing; an hour is the most that an inventory can ask for.
        [ "$left" -le 3600 ] || left=0
        printf 'guard\t%s\n' "$left"
    }
    [ ! -e /var/lib/fiefdom/manifest ] || sed "s/^/made$tab/" /var/lib/fiefdom/manifest
    originals_part
    find /var/lib/fiefdom/volumes -mindepth 2 -maxdepth 2 -type d -printf 'volume\t%p\n' 2>/dev/null
    # Images that the way back of the last release is made of; see `keep` in steps.sh.
    kept=/var/lib/fiefdom/previous/index
    [ ! -e "$kept" ] || awk -F "$tab" '$1 == "container" && $5 != "-" { print "kept-image\t" $5 }' "$kept"
    # The gateways' common address, where it is here, and who routes for this host.
    moving=$(sed -n 's/^address //p' /etc/fiefdom/address.conf 2>/dev/null)
    [ -z "$moving" ] || ip -o -4 address show to "$moving/32" 2>/dev/null | awk -v at="$moving" '$2 != "lo" { print "holds\t" at; exit }'
    ip -4 route show 2>/dev/null | sed -n "s/.* via \([0-9.]*\) .*/router$tab\1/p" | sort -u
    find /var/lib/fiefdom/stamps /var/lib/fiefdom/containers -type f -exec grep . /dev/null {} + 2>/dev/null |
        sed "s/^/stamp$tab/"
    # What is offered, as offer.sh keeps it.
    find /run/fiefdom/offers -name '*.offer' -type f -exec grep . /dev/null {} + 2>/dev/null | sed "s/^/offer$tab/"
    # The last run of each job, as job.sh keeps it.
    find /var/lib/fiefdom/jobs -name '[!.]*' -type f -exec grep . /dev/null {} + 2>/dev/null | sed "s/^/job$tab/"
    # What a gateway's HAProxy does not run, and why. The container's user writes it, so it is neither followed nor read on.
    word=/var/lib/fiefdom/gateway/refused
    [ ! -f "$word" ] || [ -L "$word" ] ||
        printf 'refused\t/etc/fiefdom/gateway/haproxy.cfg\t%s\n' "$(head -c 600 "$word" | head -n 1)"
    # What certificates it got, and what came of the last tries: likewise.
    word=/var/lib/fiefdom/gateway/obtained
    [ ! -f "$word" ] || [ -L "$word" ] || head -c 65536 "$word" | head -n 200 | sed "s/^/obtained$tab/"
    ask live | while IFS=$tab read -r unit command; do
        # shellcheck disable=SC2086 # the command is words of our own
        printf 'live\t%s\t%s\n' "$unit" "$($command 2>/dev/null | sha256sum | cut -c 1-64)"
    done
}

own=$(mktemp -d) || exit 1
trap 'rm -rf "$own"' EXIT
docker_part &
sshd_part >"$own/said" &
guest_part >"$own/guest" &
host=$(host_part)
wait
printf '%s\n' "$host"
cat "$own/said" "$own/guest"
printf 'end\n'
