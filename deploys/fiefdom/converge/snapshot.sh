# What a host holds, in one round trip. Reads a query on standard input and prints records of tab-separated
# fields; changes nothing. Needs what every Debian has (sh, coreutils, findutils, awk, grep, sed) and, where it is there,
# docker. Processes are what a look costs a host, so that one is asked all that it can tell.
# snapshot.py writes the query and reads the answer.
set -u
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
tab=$(printf '\t')
newline='
'

# What the query asks of each kind, a line each.
asked_account='' asked_block='' asked_container='' asked_container_format='' asked_disk='' asked_file='' asked_image=''
# shellcheck disable=SC2034 # asked_name is guest.sh's
asked_live='' asked_login='' asked_name='' asked_package='' asked_repository='' asked_sshd='' asked_sysctl='' asked_unit=''
eval "$(awk -F "$tab" '
    { sign = $1 in asked ? "\n" : ""; asked[$1] = asked[$1] sign substr($0, length($1) + 2) }
    END {
        for (kind in asked) {
            if (kind !~ /^[a-z-]+$/) continue
            count = split(asked[kind], part, "\047")
            text = part[1]
            for (i = 2; i <= count; i++) text = text "\047\\\047\047" part[i]
            gsub(/-/, "_", kind)
            print "asked_" kind "=\047" text "\047"
        }
    }')"

# Here snapshot.py puts facts_format and container_facts, as the supervisor has them between two such marks.
# @FACTS@

# And here what sshd is asked.
# @SSHD@

# And what it may have of its own.
# @GUEST@

printf 'snapshot\t1\n'
uid=$(id -u)
printf 'uid\t%s\n' "$uid"
client=${1%% *} # the first word of SSH_CONNECTION
printf 'client\t%s\n' "$client"
# shellcheck disable=SC1091
os=$(. /etc/os-release && printf 'os\t%s\t%s\n' "${ID:-}" "${VERSION_CODENAME:-}")
printf '%s\n' "$os"
codename=${os##*"$tab"}
[ "$uid" = 0 ] || exit 0 # nothing below is readable; the caller has words for it

docker_part() {
    [ -n "$docker" ] || return 0
    # All of them: an image stays that any container has, whoever made that.
    if ! containers=$(docker ps -a --no-trunc --format "{{.ID}}$tab{{if .Label \"fiefdom.name\"}}ours{{end}}$tab{{.Names}}$tab{{.Status}}$tab{{.Ports}}" 2>/dev/null); then
        printf 'docker\tdown\n'
        return 0
    fi
    printf 'docker\tup\n'
    about=$({
        printf '%s\n' "$containers" - "$asked_container" - "$asked_image" - "$asked_repository" - "$manifest" -
        docker image ls --no-trunc --format "{{.ID}}$tab{{.Repository}}$tab{{.Tag}}" 2>/dev/null
    } | docker_about)
    # Not cut as text, for which dash takes the square of its length: there may be thousands of containers.
    IFS=$newline
    set -f
    # shellcheck disable=SC2086 # a line each
    set -- $about
    theirs_asked=$1
    shift
    while [ "$1" != - ]; do
        printf '%s\n' "$1"
        shift
    done
    shift
    [ $# -gt 0 ] || return 0
    # An image has its fields only as JSON has them, which is how it is tried as soon as Docker's own type lacks one.
    # One that is somebody's has nothing where ours have their name.
    # shellcheck disable=SC2154 # facts_format
    docker inspect --format "{{if eq (printf \"%.4T\" .) \"map[\"}}$image_format{{else}}{{with .HostConfig}}{{end}}{{if not (index .Config.Labels \"fiefdom.name\")}}used$tab{{.Image}}{{println}}{{end}}{{if or (index .Config.Labels \"fiefdom.name\") (eq .ID$theirs_asked)}}container$tab$asked_container_format
$facts_format{{end}}{{end}}" "$@" 2>/dev/null | docker_records
}

# Whose it is, since when it has a name here, whether it has one, and its layers from the base up.
image_format="{{range .RepoTags}}image$tab{{.}}$tab{{\$.Id}}$tab{{index \$.Config.Labels \"fiefdom.context\"}}$tab{{range \$.RepoDigests}}{{.}} {{end}}{{println}}{{end}}stored$tab{{.Id}}$tab{{index .Config.Labels \"fiefdom.context\"}}$tab{{json .Metadata.LastTagTime}}$tab{{if or .RepoTags .RepoDigests}}named{{end}}$tab{{range .RootFS.Layers}}{{.}} {{end}}"

# A line of others' containers that are asked for by name, for one of all could be too long for a program. What others'
# containers publish, for no socket of the host's tells whose it is, and some have none. And behind a `-`, what to inspect,
# containers before images. Images also that are not asked for by name: others of their repositories, what Fiefdom brought
# here once, what has no name; and all, where one that is asked for is yet to come: its layers may be here already.
docker_about() {
    awk -F "$tab" -v tab="$tab" '
        function plain(names, name, count, i) { # without names that it has by a link
            count = split(names, name, ",")
            for (i = 1; i <= count; i++) if (name[i] !~ /\//) return name[i]
            return names
        }
        BEGIN { part = 0 }
        $0 == "-" { part++; next }
        $0 == "" { next }
        part == 0 {
            name = plain($3)
            if ($2 == "" && $5 != "" && $4 ~ /^(Up|Restarting) / && count++ < 100)
                published = published "\nguest" tab "publishes" tab name tab $5
            id[name] = $1; ours[name] = $2 != ""
        }
        part == 1 { wanted[$1] }
        part == 2 { image[$1] }
        part == 3 { of[$1] }
        part == 4 && $1 == "brought" { brought[$2] }
        part == 5 { stored[++images] = $1; of_image[images] = $2; tagged[images] = $2 ":" $3; there[tagged[images]] }
        END {
            theirs_asked = " \"-\""
            for (each in id) {
                if (!ours[each] && each in wanted) theirs_asked = theirs_asked " \"" id[each] "\""
                inspected = inspected "\n" (ours[each] || each in wanted ? each : id[each])
            }
            for (each in image) { inspected = inspected "\n" each; if (!(each in there)) lacks = 1 }
            for (i = 1; i <= images; i++)
                if (!(tagged[i] in image) && !(stored[i] in once) && (lacks || of_image[i] in of || tagged[i] in brought || of_image[i] == "<none>")) {
                    once[stored[i]]
                    inspected = inspected "\n" stored[i]
                }
            print theirs_asked published "\n-" inspected
        }'
}

# What `docker inspect` says, a container's two lines of facts as their digest.
docker_records() {
    records=''
    set --
    while IFS= read -r line; do
        case $line in
        '') ;;
        "used$tab"*) printf '%s\n' "$line" ;;
        "container$tab"*)
            container_facts >"$own/facts$#" || return 1
            records=$records$line$newline
            set -- "$@" "$own/facts$#"
            ;;
        "image$tab"* | "stored$tab"*)
            printf '%s\n' "$line"
            grep -e "^image$tab" -e "^stored$tab"
            ;;
        esac
    done
    [ $# = 0 ] || sha256sum "$@" | while IFS=' ' read -r facts _; do
        printf '%s\t%s\n' "${records%%"$newline"*}" "$facts"
        records=${records#*"$newline"}
    done
}

# What sshd makes of the drop-in that is wanted, in its place; where it is not there yet, who loses a login by it.
sshd_part() {
    wanted=$newline$asked_sshd
    case $wanted in *"$newline$codename$tab"*) wanted=${wanted#*"$newline$codename$tab"} ;; *) return 0 ;; esac
    [ -x /usr/sbin/sshd ] || return 0
    wanted=${wanted%%"$newline"*}
    path=${wanted%%"$tab"*}
    printf '%s' "${wanted#*"$tab"}" | base64 -d >"$own/candidate"
    said=$(sshd_judge "$path" "$own/candidate" "$own")
    [ -z "$said" ] || printf '%s\n' "$said" | sed "s/^/sshd$tab/"
    ! cmp -s "$own/candidate" "$path" || return 0
    # shellcheck disable=SC2154 # as sshd.sh has it
    sshd_ways "$sshd_main" "$own" >"$own/before"
    # shellcheck disable=SC2046 # paths of keys
    sshd_ways "$own/main" "$own" $(printf '%s\n' "$asked_file" | grep '^/etc/ssh/') >"$own/after"
    awk -F "$tab" '
        NR == FNR { ways[$1] = $2; forwards[$1] = $3; next }
        !($1 in ways) || ways[$1] == "" { next }
        $2 == "" { print "loses\t" $1 "\t" ways[$1]; next }
        forwards[$1] != $3 && forwards[$1] != "no" && $3 != "yes" { print "unforwarded\t" $1 "\t" $3 }' "$own/before" "$own/after"
}

# What is told of files by their digest: asked for ones as lines of `hashed`, with what is made of others in a folder of our
# own; lines of `said_of` have the path of these and what they are. What was there before Fiefdom's, as originals.sh keeps
# it, and what is there now, as lines of `both`; of `originals`, with a minus before it where nothing is there any more.
host_digests() {
    hashed='' said_of='' blocks='' both='' originals='' number=0
    # A device would be read without an end, a pipe waited for.
    for path in $asked_file; do [ ! -f "$path" ] || hashed=$hashed$path$newline; done
    for path in $asked_block; do
        [ -f "$path" ] || continue
        number=$((number + 1))
        # Its words are those of state.py.
        marks=$(sed -nE -e "/^# fiefdom: begin/,/^# fiefdom: end/w $own/$number" -e 's/^# fiefdom: (begin|end).*/\1/p' "$path" && echo .) || return 1
        case $marks in
        .) ;;
        "begin${newline}end$newline.") hash_own "block$tab$path" ;;
        *) blocks="${blocks}block$tab$path$tab$newline" ;;
        esac
    done
    # What a login shows may be another at each call, and so it tells nothing.
    for path in $asked_login; do
        [ -f "$path" ] || continue
        number=$((number + 1))
        sed 's/\("auth": "\)[^"]*/\1/' "$path" >"$own/$number" || return 1
        hash_own "digest$tab$path"
    done
    for live in $asked_live; do
        number=$((number + 1))
        IFS=' '
        # shellcheck disable=SC2086 # the command is words of our own
        ${live#*"$tab"} >"$own/$number" 2>/dev/null
        IFS=$newline
        hash_own "live$tab${live%%"$tab"*}"
    done
    [ -d "$kept" ] || return 0
    # shellcheck disable=SC2044 # a line each
    for path in $(find "$kept" ! -type d -printf '/%P\n'); do
        sign=-
        [ ! -e "$path" ] || sign=+
        originals=$originals$sign$path$newline
        for each in "$kept$path" "$path"; do [ ! -f "$each" ] || both=$both$each$newline; done
    done
}

hash_own() { # what it is
    hashed=$hashed$own/$number$newline said_of=$said_of$own/$number$tab$1$newline
}

# Files of which lines are told, as `lined`.
host_lined() {
    # Where Docker's networks lie, for its bridge may take the operator's place; and images that the way back of the last
    # release is made of, see `keep` in steps.sh.
    lined=/etc/docker/daemon.json$newline$kept.placed$newline$kept.units$newline/var/lib/fiefdom/previous/index$newline
    names=/
    set +f
    # Offers as offer.sh keeps them, the last run of each job as job.sh does. What is read after Fiefdom's own settings at
    # boot has the last word; of files with one name, the first is read.
    for path in /var/lib/fiefdom/stamps/* /var/lib/fiefdom/containers/* /run/fiefdom/offers/*.offer /var/lib/fiefdom/jobs/* \
        /etc/sysctl.d/*.conf /run/sysctl.d/*.conf /usr/lib/sysctl.d/*.conf; do
        [ -e "$path" ] || continue
        case $path in */sysctl.d/*)
            case $names in */"${path##*/}"/*) continue ;; esac
            names=$names${path##*/}/
            ;;
        esac
        [ ! -f "$path" ] || lined=$lined$path$newline
    done
    set -f
}

as() { printf '%s=%s\n' "$own" "$1"; }

# Lines behind one of `as` become records.
host_records() {
    awk -v mark="$own=" -v tab="$tab" -v kept="$kept" '
        function is_of(path) { return index($0, path ":") == 1 }
        function rest(path) { return substr($0, length(path) + 2) }
        function of_line(at, part, path, name) {
            if (/^\/proc\/sys\//) print "sysctl" tab $0
            else if (/^\/var\/lib\/fiefdom\/(stamps|containers)\//) print "stamp" tab $0
            else if (/^\/run\/fiefdom\/offers\//) print "offer" tab $0
            else if (/^\/var\/lib\/fiefdom\/jobs\//) print "job" tab $0
            else if (is_of(kept ".placed")) placed[rest(kept ".placed")]
            else if (is_of(kept ".units")) {
                split(rest(kept ".units"), part, tab)
                print "unit-before" tab part[1]
            } else if (is_of("/var/lib/fiefdom/previous/index")) {
                split(rest("/var/lib/fiefdom/previous/index"), part, tab)
                if (part[1] == "container" && part[5] != "-") print "kept-image" tab part[5]
            } else if (is_of("/etc/docker/daemon.json")) daemon = daemon rest("/etc/docker/daemon.json")
            else if ((at = index($0, ".conf:"))) {
                path = substr($0, 1, at + 4); name = path; sub(/.*\//, "", name); $0 = substr($0, at + 6)
                if (name > "60-fiefdom.conf" && /^[ \t]*-?[ \t]*[a-z].*=/) {
                    sub(/=.*/, ""); gsub(/^[ \t-]*|[ \t]*$/, "")
                    print "sysctl-by" tab $0 tab path
                }
            }
        }
        index($0, mark) == 1 { kind = substr($0, length(mark) + 1); row = 0; next }
        kind == "line" { of_line(); next }
        kind == "unit" || kind == "made" { print kind tab $0; next }
        kind == "of" { at = index($0, tab); said_of[substr($0, 1, at - 1)] = substr($0, at + 1) }
        kind == "digest" && /^[0-9a-f]/ {
            path = substr($0, 67)
            print (path in said_of ? said_of[path] : "digest" tab path) tab substr($0, 1, 64)
        }
        kind == "original" { original[++count] = $0 }
        kind == "kept" {
            if (sub(/^\\/, "")) gsub(/\\\\/, "\\") # as sha256sum writes a name with one
            digest[substr($0, 67)] = substr($0, 1, 64)
        }
        kind == "disk" { if (++row == 2) print "free-kib" tab $4; if (row == 3) print "disk" tab $2 tab $4 }
        # Who has the names and the numbers that containers are to have.
        kind == "passwd" { split($0, part, ":"); print "user" tab part[1] tab part[3] tab part[4] }
        kind == "group" { split($0, part, ":"); print "group" tab part[1] tab part[3] }
        # Who routes for this host.
        kind == "route" {
            at = ""
            for (i = 1; i < NF - 1; i++) if ($i == "via" && $(i + 1) ~ /^[0-9.]*$/) at = $(i + 1)
            if (at != "" && !(at in router)) { router[at]; print "router" tab at }
        }
        END {
            for (i = 1; i <= count; i++) {
                path = substr(original[i], 2); now = digest[path]
                same = now != "" && (now == digest[kept path] || (now tab path) in placed)
                print "original" tab path tab (same || original[i] ~ /^-/ ? "-" : "changed")
            }
            gsub(/[ \t]/, "", daemon)
            while (match(daemon, /"(bip|base|size)":"?[^,}"]*/)) {
                print "docker-network" tab substr(daemon, RSTART, RLENGTH)
                daemon = substr(daemon, RSTART + RLENGTH)
            }
        }'
}

# shellcheck disable=SC2086 # what is asked is a line each
host_part() {
    IFS=$newline
    set -f
    kept=/var/lib/fiefdom/originals
    hostname='' static=''
    IFS= read -r hostname </proc/sys/kernel/hostname
    [ ! -f /etc/hostname ] || IFS= read -r static </etc/hostname
    printf 'hostname\t%s\t%s\n' "$hostname" "$static"
    # Where Docker has its images, or is to have them: on the file system of the next folder above.
    case $asked_disk in /*) root=$asked_disk ;; *) root=/ ;; esac
    if [ "$root" = /var/lib/docker ]; then
        root=$(own_data_root)
        root=${root:-/var/lib/docker}
    fi
    while [ ! -d "$root" ]; do
        root=${root%/*}
        root=${root:-/}
    done
    host_digests || return 1
    host_lined
    {
        as disk
        df -Pk /var/lib "$root"
        as of
        printf %s "$said_of"
        as digest
        [ -z "$hashed" ] || sha256sum $hashed
        as original
        printf %s "$originals"
        as kept
        [ -z "$both" ] || sha256sum $both
        as line
        grep -Hs . /dev/null $asked_sysctl $lined
        IFS=$newline$tab
        as passwd
        [ -z "$asked_account" ] || getent passwd $asked_account
        as group
        [ -z "$asked_account" ] || getent group $asked_account
        IFS=$newline
        as route
        ip -4 route show
        as made
        [ -z "$manifest" ] || printf '%s\n' "$manifest"
        as unit
        [ -z "$units" ] || printf '%s\n' "$units"
    } 2>/dev/null | host_records
    printf %s "$blocks"
    [ -z "$asked_file" ] || stat --printf 'file\t%n\t%F\t%a\t%u\t%g\n' $asked_file 2>/dev/null
    [ -z "$asked_package" ] || dpkg-query -W \
        -f "package$tab\${Package}$tab\${db:Status-Status}$tab\${Version}$tab\${Architecture}\n" $asked_package 2>/dev/null
    [ ! -e /var/lib/fiefdom/guard/pending ] || {
        left=$(($(cat /var/lib/fiefdom/guard/until) - $(cut -d . -f 1 /proc/uptime)))
        # After a reboot, an uptime of before says nothing; an hour is the most that an inventory can ask for.
        [ "$left" -le 3600 ] || left=0
        printf 'guard\t%s\n' "$left"
    }
    [ ! -d /var/lib/fiefdom/volumes ] || find /var/lib/fiefdom/volumes -mindepth 2 -maxdepth 2 -type d -printf 'volume\t%p\n'
    # The gateways' common address, where it is here.
    [ ! -e /etc/fiefdom/address.conf ] || {
        moving=$(sed -n 's/^address //p' /etc/fiefdom/address.conf)
        [ -z "$moving" ] || ip -o -4 address show to "$moving/32" 2>/dev/null | awk -v at="$moving" '$2 != "lo" { print "holds\t" at; exit }'
    }
    # What a gateway's HAProxy does not run, and why. The container's user writes it, so it is neither followed nor read on.
    word=/var/lib/fiefdom/gateway/refused
    [ ! -f "$word" ] || [ -L "$word" ] ||
        printf 'refused\t/etc/fiefdom/gateway/haproxy.cfg\t%s\n' "$(head -c 600 "$word" | head -n 1)"
    # What certificates it got, and what came of the last tries: likewise.
    word=/var/lib/fiefdom/gateway/obtained
    [ ! -f "$word" ] || [ -L "$word" ] || head -c 65536 "$word" | head -n 200 | sed "s/^/obtained$tab/"
    return 0
}

manifest=''
[ ! -r /var/lib/fiefdom/manifest ] || manifest=$(cat /var/lib/fiefdom/manifest)
docker=$(command -v docker)
# In memory where it can be: a host whose disk is full has to tell that.
own=$(mktemp -d -p /run 2>/dev/null || mktemp -d) || exit 1
trap 'rm -rf "$own"' EXIT
docker_part &
docker_pid=$!
sshd_part >"$own/said" &
# The first two are not Fiefdom's: guest.sh wants to know whether they are active.
IFS=$newline
set -f
# shellcheck disable=SC2086 # a line each
units=$(TZ=UTC systemctl show -p Id -p LoadState -p ActiveState -p SubState -p UnitFileState \
    -p NeedDaemonReload -p ConditionResult -p ConditionTimestampMonotonic -p StatusText -p Job \
    -p NextElapseUSecRealtime -- firewalld.service ssh.socket $asked_unit 2>/dev/null)
set +f
unset IFS
# shellcheck disable=SC2034 # both are for guest.sh
firewalld=${units%%"$newline$newline"*} units=${units#*"$newline$newline"}
# shellcheck disable=SC2034
ssh_socket=${units%%"$newline$newline"*}
case $units in *"$newline$newline"*) units=${units#*"$newline$newline"} ;; *) units='' ;; esac
guest_part >"$own/guest" &
host=$(host_part) || exit 1
wait "$docker_pid" || exit 1
wait
printf '%s\n' "$host"
cat "$own/said" "$own/guest"
printf 'end\n'
