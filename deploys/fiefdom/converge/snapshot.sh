# What a host holds, in one round trip. Reads a query on standard input and prints records of tab-separated
# fields; changes nothing. Needs what every Debian has (sh, coreutils, findutils, awk, grep, sed) and, where it is there,
# docker. Processes are what a look costs a host, so that one is asked all that it can tell. What there may be thousands of
# is never added to a variable nor cut from one, piece by piece: dash and mawk copy all of a text each time.
# snapshot.py writes the query and reads the answer.
set -u
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
tab=$(printf '\t')
newline='
'

# What the query asks of each kind, a line each.
# In: lines of a kind, a tab, and what is asked. Out: a shell's assignment for each kind, `asked_KIND='...'`.
asked_account='' asked_block='' asked_container='' asked_container_format='' asked_disk='' asked_file='' asked_image=''
# shellcheck disable=SC2034 # asked_name is guest.sh's
asked_live='' asked_login='' asked_name='' asked_package='' asked_repository='' asked_sshd='' asked_sysctl='' asked_unit=''
eval "$(awk -F "$tab" '
    { asked[$1, ++count[$1]] = substr($0, length($1) + 2) }
    END {
        for (kind in count) {
            if (kind !~ /^[a-z-]+$/) continue
            name = kind; gsub(/-/, "_", name)
            printf "asked_%s=\047", name
            for (i = 1; i <= count[kind]; i++) {
                text = asked[kind, i]; gsub(/\047/, "\047\"\047\"\047", text)
                printf "%s%s", (i > 1 ? "\n" : ""), text
            }
            print "\047"
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
    format="{{if eq (printf \"%.4T\" .) \"map[\"}}$image_format{{else}}{{with .HostConfig}}{{end}}{{if not (index .Config.Labels \"fiefdom.name\")}}used$tab{{.Image}}{{println}}{{end}}{{if or (index .Config.Labels \"fiefdom.name\") (eq .ID$theirs_asked)}}container$tab$asked_container_format
$facts_format{{end}}{{end}}"
    docker_inspect "$@" 2>/dev/null | docker_records
}

docker_inspect() { # names...; a call for each word that they come in
    IFS=' '
    # shellcheck disable=SC2086 # names are parted by blanks
    while [ $# -gt 1 ]; do
        docker inspect --format "$format" $1
        shift
    done
    # shellcheck disable=SC2086
    exec docker inspect --format "$format" $1 # in the place of a process that is there already
}

# Whose it is, since when it has a name here, whether it has one, and its layers from the base up.
image_format="{{range .RepoTags}}image$tab{{.}}$tab{{\$.Id}}$tab{{index \$.Config.Labels \"fiefdom.context\"}}$tab{{range \$.RepoDigests}}{{.}} {{end}}{{println}}{{end}}stored$tab{{.Id}}$tab{{index .Config.Labels \"fiefdom.context\"}}$tab{{json .Metadata.LastTagTime}}$tab{{if or .RepoTags .RepoDigests}}named{{end}}$tab{{range .RootFS.Layers}}{{.}} {{end}}"

# In: lines of containers as `docker ps` says them above, of containers, images and repositories that are asked for, of the
# manifest, and of images as `docker image ls` says them, with a line of `-` behind all but the last.
# Out: a line of others' containers that are asked for by name, for one of all could be too long for a program. What others'
# containers publish, for no socket of the host's tells whose it is, and some have none. And behind a `-`, what to inspect,
# containers before images: a line for each call, of as many as its arguments have room for. Images also that are not asked
# for by name: others of their repositories, what Fiefdom brought here once, what has no name; and all, where one that is
# asked for is yet to come: its layers may be here already.
docker_about() {
    awk -F "$tab" -v tab="$tab" '
        function plain(names, name, count, i) { # without names that it has by a link
            count = split(names, name, ",")
            for (i = 1; i <= count; i++) if (name[i] !~ /\//) return name[i]
            return names
        }
        function inspect(name) { printf "%s%s", (inspected++ % 10000 ? " " : "\n"), name }
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
            printf " \"-\""
            for (each in wanted) if (each in id && !ours[each]) printf " \"%s\"", id[each]
            printf "%s\n-", published
            for (each in id) inspect(ours[each] || each in wanted ? each : id[each])
            for (each in image) { inspect(each); if (!(each in there)) lacks = 1 }
            for (i = 1; i <= images; i++)
                if (!(tagged[i] in image) && !(stored[i] in once) && (lacks || of_image[i] in of || tagged[i] in brought || of_image[i] == "<none>")) {
                    once[stored[i]]
                    inspect(stored[i])
                }
            print ""
        }'
}

# In: what `docker inspect` says, of a container its record and two lines of facts. Out: records, a container's with these
# facts' digest.
docker_records() {
    number=100000 # as many digits for each, so that files come in this order
    while IFS= read -r line; do
        case $line in
        '') ;;
        "used$tab"*) printf '%s\n' "$line" ;;
        "container$tab"*)
            number=$((number + 1))
            printf '%s\n' "$line" >&3 || return 1
            container_facts >"$own/facts$number" || return 1
            ;;
        "image$tab"* | "stored$tab"*)
            printf '%s\n' "$line"
            grep -e "^image$tab" -e "^stored$tab"
            ;;
        esac
    done 3>"$own/records"
    set +f
    [ ! -s "$own/records" ] || sha256sum "$own"/facts* | while IFS=' ' read -r facts _ && IFS= read -r line <&3; do
        printf '%s\t%s\n' "$line" "$facts"
    done 3<"$own/records"
}

# What sshd makes of the drop-in that is wanted, in its place; where it is not there yet, who loses a login by it.
sshd_part() {
    IFS=$newline
    set -f
    wanted=''
    for each in $asked_sshd; do
        case $each in "$codename$tab"*) wanted=${each#*"$tab"} ;; esac
    done
    set +f
    unset IFS
    { [ -n "$wanted" ] && [ -x /usr/sbin/sshd ]; } || return 0
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

# All files that something is told of, in $own/paths with a NUL behind each: those that are asked for, what is made of others
# in a folder of our own, of which $own/of has lines of the path there and what it is, and what was there before Fiefdom's, as
# originals.sh keeps it, each with what is there now.
host_paths() {
    number=0
    as of >"$own/of" || return 1
    : >"$own/paths"
    # shellcheck disable=SC2086 # a line each
    [ -z "$asked_file" ] || printf '%s\0' $asked_file >"$own/paths" || return 1
    for path in $asked_block; do
        [ -f "$path" ] || continue
        number=$((number + 1))
        # Its words are those of state.py.
        marks=$(sed -nE -e "/^# fiefdom: begin/,/^# fiefdom: end/w $own/$number" -e 's/^# fiefdom: (begin|end).*/\1/p' "$path" && echo .) || return 1
        case $marks in
        .) ;;
        "begin${newline}end$newline.") hash_own "block$tab$path" || return 1 ;;
        *) printf 'block\t%s\t\n' "$path" ;;
        esac
    done
    # What a login shows may be another at each call, and so it tells nothing.
    for path in $asked_login; do
        [ -f "$path" ] || continue
        number=$((number + 1))
        sed 's/\("auth": "\)[^"]*/\1/' "$path" >"$own/$number" || return 1
        hash_own "digest$tab$path" || return 1
    done
    for live in $asked_live; do
        number=$((number + 1))
        IFS=' '
        # shellcheck disable=SC2086 # the command is words of our own
        ${live#*"$tab"} >"$own/$number" 2>/dev/null
        IFS=$newline
        hash_own "live$tab${live%%"$tab"*}" || return 1
    done
    [ ! -d "$kept" ] || find "$kept" -ignore_readdir_race ! -type d -printf "/%P\0$kept/%P\0" >>"$own/paths"
}

hash_own() { # what it is
    printf '%s\t%s\n' "$own/$number" "$1" >>"$own/of" && printf '%s\0' "$own/$number" >>"$own/paths"
}

# What is there at these paths, and the digests of files, however many: find takes their list from a file (findutils 4.9, which
# Debian 12 has) and gives sha256sum as many at once as there is room for. A device would be read without an end, a pipe
# waited for.
host_files() {
    as asked
    printf '%s\n' "$asked_file"
    as file
    # shellcheck disable=SC2185 # where it begins stands in the file
    [ ! -s "$own/paths" ] || find -files0-from "$own/paths" -maxdepth 0 \
        -printf 'file\t%y\t%Y\t%s\t%m\t%U\t%G\t%p\n' -xtype f -exec sha256sum {} +
}

# Lines of files become records. What is read after Fiefdom's own settings at boot has the last word; of files with one name,
# the first is read, and so all are told before their lines.
host_lines() {
    set +f
    set -- /etc/sysctl.d/*.conf /run/sysctl.d/*.conf /usr/lib/sysctl.d/*.conf
    as settings
    for path; do [ ! -e "$path" ] || printf '%s\n' "$path"; done
    # Offers as offer.sh keeps them, the last run of each job as job.sh does.
    set -- "$@" /var/lib/fiefdom/stamps/* /var/lib/fiefdom/containers/* /run/fiefdom/offers/*.offer /var/lib/fiefdom/jobs/*
    set -f
    as line
    # Where Docker's networks lie, for its bridge may take the operator's place; and images that the way back of the last
    # release is made of, see `keep` in steps.sh.
    # shellcheck disable=SC2086 # a line each
    grep -Hs -d skip -D skip . /dev/null $asked_sysctl /etc/docker/daemon.json "$kept.placed" "$kept.units" \
        /var/lib/fiefdom/previous/index "$@"
}

as() { printf '%s=%s\n' "$own" "$1"; }

# In: what programs say of the host, each behind a line of `as` that names its kind. Out: records.
host_records() {
    awk -v mark="$own=" -v tab="$tab" -v kept="$kept" '
        BEGIN {
            # As stat names them, and snapshot.py knows them.
            type["f"] = "regular file"; type["d"] = "directory"; type["l"] = "symbolic link"; type["p"] = "fifo"
            type["c"] = "character special file"; type["b"] = "block special file"; type["s"] = "socket"
        }
        function is_of(path) { return index($0, path ":") == 1 }
        function rest(path) { return substr($0, length(path) + 2) }
        # A path, a colon and a line of that file, as grep has them.
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
                if (first[name] == path && name > "60-fiefdom.conf" && /^[ \t]*-?[ \t]*[a-z].*=/) {
                    sub(/=.*/, ""); gsub(/^[ \t-]*|[ \t]*$/, "")
                    print "sysctl-by" tab $0 tab path
                }
            }
        }
        # What find says of a path: its type, that behind links (N and L: nothing), size, mode, owner, group, path.
        function of_file(part, path) {
            split($0, part, tab); path = part[8]
            if (part[3] !~ /[NL?]/) there[path]
            if (index(path, kept "/") == 1) original[++count] = substr(path, length(kept) + 1)
            if (!(path in asked) || path in told) return
            told[path]
            print "file" tab path tab (part[2] == "f" && part[4] == 0 ? "regular empty file" : type[part[2]]) tab part[5] tab part[6] tab part[7]
        }
        # What sha256sum says of a path: 64 digits, two blanks, path.
        function of_digest(path) {
            if (sub(/^\\/, "")) gsub(/\\\\/, "\\") # as it writes a name with one
            path = substr($0, 67)
            if (path in digest) return
            digest[path] = substr($0, 1, 64)
            if (path in said_of) print said_of[path] tab digest[path]
            else if (path in asked) print "digest" tab path tab digest[path]
        }
        index($0, mark) == 1 { kind = substr($0, length(mark) + 1); row = 0; next }
        kind == "line" { of_line(); next }
        kind == "unit" || kind == "made" { print kind tab $0; next }
        kind == "asked" { asked[$0]; next }
        kind == "of" { at = index($0, tab); said_of[substr($0, 1, at - 1)] = substr($0, at + 1); next }
        kind == "file" { if (/^file\t/) of_file(); else of_digest(); next }
        kind == "settings" { name = $0; sub(/.*\//, "", name); if (!(name in first)) first[name] = $0; next }
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
                path = original[i]; now = digest[path]
                same = now != "" && (now == digest[kept path] || (now tab path) in placed)
                print "original" tab path tab (same || !(path in there) ? "-" : "changed")
            }
            gsub(/[ \t]/, "", daemon)
            while (match(daemon, /"(bip|base|size)":"?[^,}"]*/)) {
                print "docker-network" tab substr(daemon, RSTART, RLENGTH)
                daemon = substr(daemon, RSTART + RLENGTH)
            }
        }' "$own/of" -
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
    host_paths || return 1
    {
        as disk
        df -Pk /var/lib "$root"
        host_files
        host_lines
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
