# Changes a host: reads steps on standard input and takes them in order; the first that fails ends it.
# A step is one line of tab-separated fields, "-" for an empty one. apply.py writes them. Nothing here decides
# what to change, and no field ever becomes part of a command's text.
# shellcheck disable=SC2015,SC2174 # `fail` ends the script, and only the last folder is ours to close
set -u
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive
tab=$(printf '\t')
umask 022
state=/var/lib/fiefdom
manifest=$state/manifest

fail() {
    printf 'fiefdom-failed\t%s\t%s\n' "$1" "$(printf '%s' "$2" | tr '\n\t' '; ')"
    exit 1
}

# Two runs at once take turns; a lock dies with its holder.
mkdir -p "$state/stamps" "$state/containers" || fail "$state" "cannot be created"
exec 9>"$state/lock" && flock -w 300 9 || fail "$state/lock" "another run has held it for five minutes"

steps=$(cat)
staging=$state/staging
if ! { rm -rf "$staging" && mkdir -m 0700 "$staging"; } 2>/dev/null; then
    fail "$staging" "cannot be created: $(df -Pk "$state" | awk 'NR == 2 { print $4 " KiB free" }')"
fi
trap 'rm -rf "$staging"' EXIT

# Lines of the manifest are added before a thing is made and taken out after it is gone, so that a run which
# dies in between leaves a line too many, never one too few.
put_manifest() {
    sort -u >"$staging/manifest" && mv -f "$staging/manifest" "$manifest" || fail "$manifest" "cannot be written"
}

staged_name() { # path; two paths never share a name
    name=$(printf '%s' "$1" | sha256sum)
    staged=$staging/${name%% *}
}

free() { df -Pk "$1" | awk 'NR == 2 { print $4 " KiB free" }'; }

stage_file() { # path mode uid gid base64
    staged_name "$1"
    # Born 0600, so that a secret is never wider than its final mode.
    output=$({ umask 077 && printf '%s' "${5#-}" | base64 -d >"$staged"; } 2>&1) ||
        fail "$1" "cannot be staged: $output; $(free "$staging")"
    chown "$3:$4" "$staged" && chmod "$2" "$staged" || fail "$1" "cannot set owner or mode"
}

check_file() { # path argv...
    path=$1
    staged_name "$path"
    shift
    for word; do
        [ "$word" != "{}" ] || word=$staged
        set -- "$@" "$word"
        shift
    done
    output=$("$@" 2>&1) || fail "$path" "refused by $1: $(printf '%s' "$output" | tail -n 3)"
}

place_file() { # path
    staged_name "$1"
    parent=$(dirname "$1")
    mkdir -p "$parent" || fail "$1" "its folder cannot be created"
    if [ "$(stat -c %d "$staging")" = "$(stat -c %d "$parent")" ]; then
        output=$({ sync -d "$staged" && mv -fT "$staged" "$1"; } 2>&1) || fail "$1" "cannot be moved into place: $output"
    else # another file system: a rename is atomic only within one
        beside=$parent/.$(basename "$1").fiefdom
        output=$({ cp -p "$staged" "$beside" && sync -d "$beside" && mv -fT "$beside" "$1"; } 2>&1) ||
            { rm -f "$beside"; fail "$1" "cannot be written: $output; $(free "$parent")"; }
    fi
}

make_directory() { # path mode uid gid
    [ -d "$1" ] || mkdir -p -m 0700 "$1" || fail "$1" "cannot be created"
    chown "$3:$4" "$1" && chmod "$2" "$1" || fail "$1" "cannot set owner or mode"
}

apt() {
    output=$(apt-get -q -y -o DPkg::Lock::Timeout=120 -o Dpkg::Options::=--force-confold "$@" 2>&1) ||
        fail "apt-get $1" "$(printf '%s\n' "$output" | grep -E '^(E|Err|W):' | head -n 3)"
}

install_packages() { # names...
    # A run or a power cut may have left dpkg half way; it is a no-op otherwise.
    dpkg --configure -a >/dev/null 2>&1
    apt update
    apt install --no-install-recommends --no-remove "$@"
}

why_failed() { journalctl -q -n 10 -o cat -u "$1" 2>/dev/null | tail -n 10; }

change_unit() { # name modes stamp live
    for mode in $(printf '%s' "$2" | tr , ' '); do
        systemctl reset-failed "$1" 2>/dev/null
        case $mode in
        start) output=$(systemctl start "$1" 2>&1) ;;
        stop) output=$(systemctl stop "$1" 2>&1) ;;
        restart) output=$(systemctl restart "$1" 2>&1) ;;
        # A unit that is down has nothing to reload; it reads its configuration when it starts.
        reload) output=$(systemctl reload-or-restart "$1" 2>&1) ;;
        enable | disable) output=$(systemctl -q "$mode" "$1" 2>&1) ;;
        esac || fail "$1" "$mode failed: $output; $(why_failed "$1")"
    done
    [ "$3" != - ] || return 0
    live=-
    # shellcheck disable=SC2086 # words of our own
    [ "$4" = - ] || live=$($4 2>/dev/null | sha256sum | cut -c 1-64)
    printf '%s %s\n' "$3" "$live" >"$staging/stamp" && mv -f "$staging/stamp" "$state/stamps/$1"
}

# All at once: each returns when its instance is healthy, so together they take as long as the slowest.
container_units() { # verb units...
    verb=$1
    shift
    systemctl reset-failed "$@" 2>/dev/null
    output=$(systemctl "$verb" "$@" 2>&1) && return
    for unit; do
        case $verb:$(systemctl is-active "$unit") in
        *start:active | stop:inactive) ;;
        *) fail "$unit" "did not $verb: $(why_failed "$unit")" ;;
        esac
    done
    fail "$*" "$verb failed: $output"
}

take() {
    action=$1
    shift
    case $action in
    record) { cat "$manifest" 2>/dev/null; printf '%s\t%s\n' "$1" "$2"; } | put_manifest || exit 1 ;;
    forget) grep -vxF "$1$tab$2" "$manifest" | put_manifest || exit 1 ;;
    packages) install_packages "$@" ;;
    directory) make_directory "$@" ;;
    stage) stage_file "$@" ;;
    check) check_file "$@" ;;
    place) place_file "$1" ;;
    hostname)
        printf '%s\n' "$1" >"$staging/hostname" && chmod 0644 "$staging/hostname" &&
            mv -f "$staging/hostname" /etc/hostname && hostname "$1" || fail hostname "cannot be set to $1"
        ;;
    sysctl)
        [ -w "$1" ] || fail "$1" "is no kernel setting that can be changed on this host"
        { printf '%s\n' "$2" >"$1"; } 2>"$staging/error" || fail "$1" "cannot be set to $2: $(cat "$staging/error")"
        ;;
    daemon-reload) systemctl daemon-reload || fail systemd "daemon-reload failed" ;;
    unstamp) rm -f "$state/stamps/$1" ;;
    unit) change_unit "$@" ;;
    containers) container_units "$@" ;;
    remove-unit)
        systemctl -q disable --now "$1" >/dev/null 2>&1
        rm -f "$state/stamps/$1"
        ;;
    remove-container)
        docker rm -f "$1" >/dev/null 2>&1
        ! docker inspect --type container "$1" >/dev/null 2>&1 || fail "$1" "the container cannot be removed"
        rm -f "$state/containers/$1"
        ;;
    remove-file) rm -f "$1" || fail "$1" "cannot be removed" ;;
    remove-directory) rmdir "$1" 2>/dev/null || : ;; # what somebody else put in it stays
    pull) output=$(docker pull -q "$1" 2>&1) || fail "$1" "cannot be pulled: $output" ;;
    *) fail "$action" "is not a step this script knows" ;;
    esac
}

# shellcheck disable=SC2086 # split at tabs, on purpose; set -f keeps it to that
while IFS= read -r line; do
    [ -n "$line" ] || continue
    set -f
    IFS=$tab
    set -- $line
    unset IFS
    set +f
    take "$@" </dev/null
    printf 'done\t%s\t%s\n' "$1" "${2:-}"
done <<EOF
$steps
EOF
