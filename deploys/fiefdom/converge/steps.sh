# Changes a host: reads steps on standard input and takes them in order; the first that fails ends it.
# A step is a line of tab-separated fields, "-" for an empty one; after the last comes "end". steps_script.py writes them.
# Nothing here decides what to change, and no field ever becomes part of a command's text.
# shellcheck disable=SC2015,SC2174 # `fail` ends the script, and only the last folder is ours to close
set -u
undo=no
guarded=no
resting=''
lenders=''
sick=''
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive
tab=$(printf '\t')
umask 022
state=/var/lib/fiefdom
manifest=$state/manifest

newline='
'
# The reason is one sentence. What it has below its first line, and more lines, are told apart from it.
fail() { # thing reason [lines]
    more=${2#"${2%%"$newline"*}"}
    printf '%s\n%s\n' "${more#"$newline"}" "${3:-}" | tell_lines "$1"
    printf 'fiefdom-failed\t%s\t%s\n' "$1" "$(printf '%s' "${2%%"$newline"*}" | tr '\t' ' ')"
    exit 1
}

tell_lines() { # thing; lines on standard input
    tr '\t' ' ' | grep . | while IFS= read -r line; do printf 'fiefdom-log\t%s\t%s\n' "$1" "$line"; done
}

# Two runs at once take turns; a lock dies with its holder.
mkdir -p "$state/stamps" "$state/containers" || fail "$state" "cannot be created"
exec 9>"$state/lock" && flock -w 300 9 || fail "$state/lock" "another run has held it for five minutes"

steps=$(cat)
case $steps in
*"
end") steps=${steps%end} ;;
*) fail steps "were cut off on their way; nothing was changed" ;;
esac
# It may still put back files, and the manifest of before it: what this run made would be forgotten.
[ ! -e "$state/guard/pending" ] || {
    left=$(($(cat "$state/guard/until") - $(cut -d . -f 1 /proc/uptime)))
    # After a reboot, an uptime of before says nothing; an hour is the most that an inventory can ask for.
    [ "$left" -ge 0 ] && [ "$left" -le 3600 ] || left=0
    fail "$state/guard" "an earlier change waits for its confirmation; it takes itself back within $left s: try again then"
}
staging=$state/staging
if ! { rm -rf "$staging" && mkdir -m 0700 "$staging"; } 2>/dev/null; then
    fail "$staging" "cannot be created: $(df -Pk "$state" | awk 'NR == 2 { print $4 " KiB free" }')"
fi
previous=$state/previous

# A release that fails puts back what was there, whatever the reason, before anybody has to ask.
finish() {
    code=$?
    end_lending
    [ "$undo" = no ] || {
        printf 'fiefdom-stage\trestore\n'
        put_back aside
        code=1
    }
    [ "$guarded" = no ] || {
        GUARD_WITHIN=yes sh "$guarded" revert "a step failed" >/dev/null 2>&1 && printf 'fiefdom-reverted\t%s\n' "$(hostname)"
        code=1
    }
    # An offer waits for its instances. Where they are dead that takes until somebody mends them: systemd goes on trying,
    # and this run ends.
    [ "$code" = 0 ] && block='' || block=--no-block
    # shellcheck disable=SC2086 # an option and names of units
    [ -z "$resting" ] || systemctl $block start $resting 2>/dev/null
    rm -rf "$staging"
    exit "$code"
}
trap finish EXIT
trap 'exit 1' HUP INT TERM

# Lines of the manifest are added before a thing is made and taken out after it is gone, so that a run which
# dies in between leaves a line too many, never one too few.
put_manifest() {
    sort -u >"$staging/manifest" && move_file "$staging/manifest" "$manifest" || fail "$manifest" "cannot be written"
}

# From here on they are Fiefdom's. All of them go to the disk at once: a new host has some fifty.
record() { # kind name, and so on
    recorded=''
    while [ $# -gt 0 ]; do
        [ "$1" != file ] || is_ours "$1" "$2" || keep_original "$2"
        recorded=$recorded$1$tab$2$newline
        shift 2
    done
    { cat "$manifest" 2>/dev/null; printf '%s' "$recorded"; } | put_manifest || exit 1
}

staged_name() { # path; two paths never share a name
    staged=$(printf '%s' "$1" | sha256sum)
    staged=$staging/${staged%% *}
}

free() { df -Pk "$1" | awk 'NR == 2 { print $4 " KiB free" }'; }

stage_file() { # path mode uid gid base64
    staged_name "$1"
    # Born 0600, so that a secret is never wider than its final mode.
    output=$({ umask 077 && printf '%s' "${5#-}" | base64 -d >"$staged"; } 2>&1) ||
        fail "$1" "cannot be staged: $output; $(free "$staging")"
    chown "$3:$4" "$staged" && chmod "$2" "$staged" || fail "$1" "cannot set owner or mode"
}

stage_like() { # path mode uid gid other, which is staged already
    staged_name "$5"
    like=$staged
    staged_name "$1"
    output=$({ umask 077 && cat "$like" >"$staged"; } 2>&1) || fail "$1" "cannot be staged: $output; $(free "$staging")"
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

# Here steps_script.py puts what a host keeps of the time before.
# @ORIGINALS@

# And how its blocks come into files that are others'.
# @BLOCKS@

# And here what sshd is asked.
# @SSHD@

# sshd reads a drop-in among others, and may refuse the whole where it takes each part, or hold to another part; what it
# refuses ends it at its reload, whoever wrote it.
# shellcheck disable=SC2329 # a File's check
sshd() { # installed staged: alone, then in its place
    /usr/sbin/sshd -t -f "$2" || return 1
    said=$(sshd_said "$1" "$2")
    [ -z "$said" ] || { printf '%s\n' "$said"; return 1; }
}

sshd_said() { # installed candidate
    mkdir -p "$staging/sshd" && sshd_judge "$1" "$2" "$staging/sshd"
}

place_file() { # path
    staged_name "$1"
    parent=$(dirname "$1")
    mkdir -p "$parent" || fail "$1" "its folder cannot be created"
    note_placed "$1" "$staged"
    move_file "$staged" "$1" || fail "$1" "cannot be put into place: $output; $(free "$parent")"
}

# A container that runs has the very file mounted: it would not see another one in its place.
mend_file() { # path
    staged_name "$1"
    if [ -f "$1" ] && [ ! -L "$1" ]; then
        output=$({ chown --reference="$staged" "$1" && chmod --reference="$staged" "$1" && cat "$staged" >"$1" && sync -d "$1"; } 2>&1) ||
            fail "$1" "cannot be mended: $output; $(free "$(dirname "$1")")"
    else
        place_file "$1"
    fi
}

# What other people's programs have kept: only a folder right in one of a service, and on no other file system.
remove_volume() { # path
    case $1 in
    *//* | */../* | */.. | */) fail "$1" "is no volume" ;;
    "$state"/volumes/*/*/*) fail "$1" "is no volume" ;;
    "$state"/volumes/*/*) ;;
    *) fail "$1" "is no volume" ;;
    esac
    output=$(rm -rf --one-file-system "$1" 2>&1) || fail "$1" "cannot be removed: $output"
    rmdir "$(dirname "$1")" "$state/volumes" 2>/dev/null || :
}

move_file() { # from to; says in $output why it could not
    if [ "$(stat -c %d "$1")" = "$(stat -c %d "$(dirname "$2")")" ]; then
        output=$({ { [ -L "$1" ] || sync -d "$1"; } && mv -fT "$1" "$2"; } 2>&1)
    else # another file system: a rename is atomic only within one
        beside=$(dirname "$2")/.$(basename "$2").fiefdom
        output=$({ cp -pP "$1" "$beside" && { [ -L "$beside" ] || sync -d "$beside"; } && mv -fT "$beside" "$2"; } 2>&1) || {
            rm -f "$beside"
            return 1
        }
    fi
}

# To a mode of four digits, chmod adds the bits of setuid and setgid that a folder has.
make_directory() { # path mode uid gid
    [ -d "$1" ] || mkdir -p -m 0700 "$1" || fail "$1" "cannot be created"
    chown "$3:$4" "$1" && chmod "0$2" "$1" || fail "$1" "cannot set owner or mode"
}

# With another number than this, all that belongs to it would be somebody else's.
make_account() { # name number entry
    output=$(systemd-sysusers "$3" 2>&1) || fail "$1" "cannot be made: $output"
    found=$(id -u "$1" 2>&1):$(id -g "$1" 2>&1)
    [ "$found" = "$2:$2" ] || fail "$1" "was to have the number $2 and has $found"
}

# While one container takes over from another, which is another user, both read and write a thing and all that is in it:
# the old one as its owner, the new one by its group. That goes for what either makes meanwhile as well, so it is seen to
# until `own`. A socket stays its maker's, though: HAProxy links it under another name when it reloads, which the kernel
# lets nobody else do, and ends where it cannot.
lend() { # path old new, which are users and groups of one number
    share "$@"
    # What is in it may come and go under way.
    [ "$(stat -c %u:%g "$1" 2>/dev/null)" = "$2:$3" ] || fail "$1" "cannot be given to both containers: $output"
    : >"$staging/lending"
    while [ -e "$staging/lending" ] && kill -0 $$ 2>/dev/null; do # $$ is the script's own also here
        share "$@"
        sleep 0.1
    done >/dev/null 2>&1 </dev/null 9>&- &
    lenders="$lenders $!"
}

share() { # path old new
    # In this order, so that nobody is shut out for a moment; in each folder by name, for what is in it may be swapped.
    output=$(find "$1" ! -type l ! '(' -type s -user "$3" ')' '(' ! -user "$2" -o ! -group "$3" ')' \
        -execdir chmod g=u {} + -execdir chown --no-dereference "$2:$3" {} + 2>&1)
}

own() { # path mode uid gid; the path itself comes last, so that what was left half done is seen
    end_lending
    for _ in 1 2; do # the one before may have made something under way
        output=$(chown --recursive --no-dereference "$3:$4" "$1" 2>&1)
    done
    left=$(find "$1" '(' ! -user "$3" -o ! -group "$4" ')' -print -quit)
    [ -z "$left" ] || fail "$1" "cannot be given to its new owner: $output"
    find "$1" -mindepth 1 ! -type l -execdir chmod go= {} + 2>/dev/null
    chmod "$2" "$1" || fail "$1" "cannot set mode"
}

# Not by a signal, which would leave a `find` at work behind.
end_lending() {
    rm -f "$staging/lending"
    # shellcheck disable=SC2086 # numbers
    [ -z "$lenders" ] || wait $lenders
    lenders=''
}

# apt-get waits for dpkg's locks itself, but not for those of its lists and archives, which apt-daily.service takes too.
unreached=''
apt() {
    tries=0
    until output=$(apt-get -q -y -o DPkg::Lock::Timeout=120 -o Dpkg::Options::=--force-confold "$@" 2>&1); do
        case $output in
        *"Could not get lock /var/lib/apt/lists/"* | *"Could not get lock /var/cache/apt/archives/"*) limit=120 ;;
        *"dpkg was interrupted"*) dpkg --configure -a >/dev/null 2>&1 && limit=2 || limit=0 ;;
        *) limit=0 ;;
        esac
        [ "$tries" -lt "$limit" ] || fail "apt-get $1" "$(complaints "$unreached
$output")"
        tries=$((tries + 1))
        sleep 1
    done
    # What could not be reached is no error of `update`, but is why `install` finds nothing.
    [ "$1" != update ] || unreached=$(complaints "$output")
}

complaints() { # what apt-get printed
    printf '%s\n' "$1" | grep -E '^(E:|Err:|W:|dpkg: error)' | head -n 3
}

install_packages() { # names...
    # A run or a power cut may have left dpkg half way; it is a no-op otherwise.
    dpkg --configure -a >/dev/null 2>&1
    # What packages are for, in words: no installation reads it, and of what a host without lists fetches it is two fifths.
    words=''
    ls /var/lib/apt/lists/*_i18n_Translation-* >/dev/null 2>&1 || words='-o Acquire::Languages=none'
    # shellcheck disable=SC2086 # an option and its value
    apt update $words
    apt install --no-install-recommends --no-remove "$@"
}

# A reload leaves addresses and routes that somebody else set on the interface; after a reboot they would be missing.
reconfigure() { # interface
    for _ in 1 2 3 4 5 6 7 8 9 10; do # a networkd that has just started does not know it yet
        output=$(networkctl reconfigure "$1" 2>&1) && return
        sleep 0.2
    done
    fail "$1" "cannot be configured: $output"
}

# To a person, words of what failed are worth more than systemctl's.
why_failed() { journalctl -q -n 10 -o cat -u "$1" 2>/dev/null | tail -n 10; }

# What a unit's own processes said: the supervisor says in an error why it ends, and marks what its container says.
said() { # unit since_s option...
    said_unit=$1 said_since_s=$2
    shift 2
    journalctl -q -o cat --since "@$said_since_s" "$@" "_SYSTEMD_UNIT=$said_unit" 2>/dev/null
}

container_of() { # unit
    name=${1#fiefdom-}
    printf '%s' "${name%.service}" | tr @ -
}

reason_of() { # unit since_s
    reason=$(said "$1" "$2" -p err | grep . | tail -n 1)
    # What stands before the reason is the unit already.
    printf '%s' "${reason#"$(container_of "$1"): "}"
}

last_words() { # unit since_s
    words=$(said "$1" "$2")
    case $words in
    *"$newline| "* | "| "*) printf '%s\n' "$words" | sed -n 's/^| //p' ;;
    ?*) printf '%s\n' "$words" | grep -vxF "$(said "$1" "$2" -p err | grep . | tail -n 1)" ;;
    *) why_failed "$1" ;; # systemd's own words
    esac | tail -n 10
}

change_unit() { # name modes stamp live
    for mode in $(printf '%s' "$2" | tr , ' '); do
        systemctl reset-failed "$1" 2>/dev/null
        case $mode in
        start) output=$(systemctl start "$1" 2>&1) ;;
        stop) output=$(systemctl stop "$1" 2>&1) ;;
        restart) output=$(systemctl restart "$1" 2>&1) ;;
        # A unit that is down has nothing to reload; it reads its configuration when it starts.
        reload) output=$(systemctl reload-or-restart "$1" 2>&1) ;;
        enable | disable) keep_turned "$1" "$mode" && output=$(systemctl -q "$mode" "$1" 2>&1) ;;
        esac || {
            # All else is done without it; but not where the line may be cut, which is taken back.
            [ "$guarded" = no ] && [ -n "$(masked "$1")" ] || fail "$1" "$mode failed: $output" "$(why_failed "$1")"
            tell_sick "$1" 0
            return 0
        }
    done
    [ "$3" != - ] || return 0
    live=-
    # shellcheck disable=SC2086 # words of our own
    [ "$4" = - ] || live=$($4 2>/dev/null | sha256sum | cut -c 1-64)
    printf '%s %s\n' "$3" "$live" >"$staging/stamp" && move_file "$staging/stamp" "$state/stamps/$1"
}

# An image counts as there by its name, so one with a broken layer is sent again only once it is gone.
storage_mend() { # unit words
    case $2 in
    *"error creating overlay mount"* | *"layer does not exist"* | */overlay2/*"no such file or directory"*) ;;
    *) return ;;
    esac
    image=$(sed -n 's/^image //p' "/etc/fiefdom/containers/$(container_of "$1").conf" 2>/dev/null)
    # By its id, for under another name it would stay.
    id=$(docker image inspect --format '{{.Id}}' "$image" 2>/dev/null | cut -c 8-19)
    printf 'Docker has broken files of %s; remove its containers with docker rm -f, then docker image rm --force %s, and apply again' \
        "$image" "${id:-$image}"
}

# All at once: each returns when its instance is healthy, so together they take as long as the slowest.
container_units() { # verb units...
    verb=$1
    shift
    systemctl reset-failed "$@" 2>/dev/null
    began_s=$(date +%s)
    output=$(systemctl "$verb" "$@" 2>&1) && {
        tell_delays "$began_s" "$@"
        return
    }
    for unit; do
        case $verb:$(systemctl is-active "$unit") in
        *start:active | reload:active | stop:inactive) ;;
        *)
            why=$(reason_of "$unit" "$began_s")
            words=$(last_words "$unit" "$began_s")
            mend=$(storage_mend "$unit" "$why$words")
            fail "$unit" "${mend:-${why:-did not $verb}}" "${mend:+$why$newline}$words"
            ;;
        esac
    done
    # All are up, so what failed is told nowhere else: a reload leaves the old one in its place.
    for unit; do
        why=$(reason_of "$unit" "$began_s")
        [ -z "$why" ] || fail "$unit" "$why" "$(last_words "$unit" "$began_s")"
    done
    fail "$*" "$verb failed: $output"
}

# Its container runs on, for a unit of another name that comes at once: the supervisor has no time to stop it, and nobody
# is told that it goes.
let_go() { # units...
    for unit; do
        drop_in=/run/systemd/system/$unit.d/zz-let-go.conf
        { mkdir -p "${drop_in%/*}" && printf '%s\n' '[Service]' ExecStop= KillSignal=SIGKILL SuccessExitStatus=SIGKILL >"$drop_in"; } ||
            fail "$unit" "$drop_in cannot be written"
    done
    systemctl daemon-reload || fail systemd "daemon-reload failed"
    output=$(systemctl -q disable --now "$@" 2>&1) || fail "$*" "disable failed: $output"
    for unit; do
        drop_in=/run/systemd/system/$unit.d/zz-let-go.conf
        rm -f "$drop_in" && rmdir "${drop_in%/*}" 2>/dev/null
        rm -f "$state/stamps/$unit"
    done
}

# Somebody said that it is never to start, and takes that back himself; its journal has nothing to say of it.
masked() { # unit
    case $(systemctl is-enabled "$1" 2>/dev/null) in masked*) printf 'it is masked, and starts again after systemctl unmask %s there' "$1" ;; esac
}

# What does not come up ends nothing: what else is to serve here comes up all the same, and the run fails at its end.
tell_sick() { # unit since_s
    ! is_sick "$1" || return 0
    sick="$sick $1"
    why=$(masked "$1") words=''
    [ -n "$why" ] || {
        why=$(reason_of "$1" "$2")
        words=$(last_words "$1" "$2")
    }
    mend=$(storage_mend "$1" "$why$words")
    printf '%s\n' "${mend:+$why$newline}$words" | tell_lines "$1"
    printf 'fiefdom-sick\t%s\t%s\n' "$1" "$(printf '%s' "${mend:-${why:-did not start}}" | tr '\t' ' ')"
}

is_sick() { # unit
    case " $sick " in *" $1 "*) ;; *) return 1 ;; esac
}

bring_up() { # units of instances...
    began_s=$(date +%s)
    systemctl reset-failed "$@" 2>/dev/null
    systemctl restart "$@" 2>/dev/null && return
    for unit; do
        systemctl -q is-active "$unit" || tell_sick "$unit" "$began_s"
    done
}

bring_into_rotation() { # start|reload, the offer's unit, the units of its instances...
    verb=$1 offer=$2
    shift 2
    for unit; do
        is_sick "$unit" || break
        unit=''
    done
    # It waits for the first of them that comes up, and nobody waits for it.
    [ -n "$unit" ] || {
        systemctl --no-block start "$offer" 2>/dev/null
        return
    }
    systemctl reset-failed "$offer" 2>/dev/null
    began_s=$(date +%s)
    systemctl "$verb" "$offer" 2>/dev/null || tell_sick "$offer" "$began_s"
    tell_delays "$began_s" "$offer"
}

# A drain or join that went on without every gateway's word says so in the journal.
tell_delays() { # since_s units...
    since_s=$1
    shift
    for unit; do
        case $unit in *serf-agent.service | fiefdom-offer-*) ;; *) continue ;; esac
        journalctl -q -o cat -u "$unit" --since "@$since_s" 2>/dev/null | grep '^going on after ' | while IFS= read -r line; do
            printf 'fiefdom-note\t%s\n' "$(printf '%s' "$line" | tr '\t' ' ')"
        done
    done
}

# What a release replaces is kept until the next one: files with their modes and owners, and images by id, for a tag may
# have moved on. While it says "unfinished", the turn that made it never came to its end, and what it kept is still the
# state to go back to.
keep() { # begin TURN | file PATH | directory PATH | container NAME UNIT | offer UNIT | done
    if [ "$1" = begin ]; then
        keeping=$staging/previous
        if [ -e "$previous/unfinished" ]; then
            cp -a "$previous" "$keeping"
        else
            mkdir -m 0700 "$keeping" && : >"$keeping/index"
        fi && printf '%s\n' "$2" >"$keeping/turn" || fail "$keeping" "cannot be created; $(free "$staging")"
        return
    fi
    # What is known of an unfinished turn stays; what it did not touch is kept beside it.
    ! cut -f 1,2 "$keeping/index" | grep -qxF "$1$tab${2:-}" || return 0
    case $1 in
    done)
        : >"$keeping/unfinished" && sync -f "$keeping" && rm -rf "$previous" && mv -T "$keeping" "$previous" || fail "$previous" "cannot be kept"
        ;;
    file)
        staged_name "$2"
        if [ -e "$2" ]; then
            cp -p "$2" "$keeping/${staged##*/}" || fail "$2" "cannot be kept; $(free "$staging")"
        fi
        printf 'file\t%s\n' "$2" >>"$keeping/index" || fail "$keeping/index" "cannot be written; $(free "$staging")"
        ;;
    directory) # one that is yet to come has nothing to go back to
        ! [ -d "$2" ] || stat --printf "directory\t%n\t%a\t%u\t%g\n" "$2" >>"$keeping/index" ||
            fail "$keeping/index" "cannot be written; $(free "$staging")"
        ;;
    container)
        found=$(docker inspect --type container --format "{{.Id}}$tab{{.Image}}$tab{{.Config.Image}}" "$2" 2>/dev/null) ||
            found="-$tab-$tab-"
        printf 'container\t%s\t%s\t%s\n' "$2" "$3" "$found" >>"$keeping/index" ||
            fail "$keeping/index" "cannot be written; $(free "$staging")"
        ;;
    offer)
        printf 'offer\t%s\n' "$2" >>"$keeping/index" || fail "$keeping/index" "cannot be written; $(free "$staging")"
        ;;
    esac
    [ "$1" != "done" ] || undo=yes
}

# The way back, which `finish` takes for a turn that failed and the step `restore` for one that did well. Goes on after a
# failure: every container that comes back is one more that serves.
put_back() { # aside: keep the release's containers under another name; or replace
    undo=no
    missed=no
    [ -e "$previous/index" ] || {
        printf 'fiefdom-not-restored\t%s\tnothing was kept of an earlier release\n' "$previous"
        return 1
    }
    # systemd starts a failed unit again, and nothing may be offered while its instances go.
    offers=$(sed -n "s/^offer$tab//p" "$previous/index")
    # shellcheck disable=SC2086 # names of units
    [ -z "$offers" ] || systemctl stop $offers 2>/dev/null
    while IFS=$tab read -r kind name unit id image ref; do
        case $kind in
        container)
            [ "$(docker inspect --type container --format '{{.Id}}' "$name" 2>/dev/null)" != "$id" ] || continue
            [ "$image" = - ] || docker tag "$image" "$ref" 2>/dev/null
            systemctl stop "$unit" 2>/dev/null
            [ "$1" = aside ] || continue
            docker rm -f "$name.failed" >/dev/null 2>&1
            docker rename "$name" "$name.failed" 2>/dev/null
            ;;
        directory) chown "$id:$image" "$name" && chmod "0$unit" "$name" || missed=yes ;;
        file)
            staged_name "$name"
            # Linked, for a full disk may be why there is something to put back; over what went to another file system.
            kept=$previous/${staged##*/}
            if [ ! -e "$kept" ]; then
                rm -f "$name"
            elif ! { output=$(ln -f "$kept" "$staged" 2>&1) && move_file "$staged" "$name"; }; then
                printf 'fiefdom-not-restored\t%s\t%s\n' "$name" "$(printf '%s' "$output" | tr '\n\t' '  ')"
                missed=yes
            fi
            ;;
        esac
    done <"$previous/index"
    systemctl daemon-reload
    instances=$(grep "^container$tab" "$previous/index" | cut -f 3)
    # shellcheck disable=SC2086 # names of units
    for units in "$instances" "$offers"; do
        [ -n "$units" ] || continue
        systemctl reset-failed $units 2>/dev/null
        systemctl start $units 2>/dev/null || {
            for unit in $units; do
                systemctl -q is-active "$unit" || printf 'fiefdom-not-restored\t%s\tdid not start\n' "$unit"
            done
            # Offers are made all the same: systemd tries again, and they come into rotation when an instance answers.
            missed=yes
        }
    done
    [ "$missed" = no ] || return 1
    rm -f "$previous/unfinished"
    printf 'fiefdom-restored\t%s\n' "$(hostname)"
}

# Between these two, a step that fails takes all back at once.
guard() { # verb argument...
    staged_name /var/lib/fiefdom/guard/guard.sh
    [ "$1" != arm ] || guarded=$staged
    sh "$staged" "$@" || exit 1
    [ "$1" != applied ] || guarded=no
}

# One that others run things as stays, and its group with it.
remove_account() { # name
    number=$(id -u "$1" 2>/dev/null) || return 0
    # Not every userdel looks.
    if grep -qs "^Uid:$tab$number$tab" /proc/[0-9]*/status; then
        printf 'fiefdom-note\tthe account %s stays, for something runs as it\n' "$1"
        return
    fi
    output=$(userdel "$1" 2>&1) || fail "$1" "cannot be removed: $output"
    groupdel "$1" 2>/dev/null # where the host's userdel leaves it
    :
}

# Not by force: what a container has stays, whoever made that, and a clean-up that fails ends nothing.
remove_image() { # reference or id
    output=$(docker image rm "$1" 2>&1) || ! docker image inspect "$1" >/dev/null 2>&1 || {
        printf 'fiefdom-note\tthe image %s stays: %s\n' "$1" "$(printf '%s' "$output" | tr '\n\t' '  ')"
        return 0
    }
    ! grep -qsxF "brought$tab$1" "$manifest" || grep -vxF "brought$tab$1" "$manifest" | put_manifest || exit 1
}

# A gateway that was taken over from goes once its last requests are answered, long after this run it may be. Its image
# goes with it then, where nothing else has that.
follow_with_image() { # container image
    names=$(docker ps -a --filter "name=^$1\.retiring-[0-9]+\$" --filter "ancestor=$2" --format '{{.Names}}' 2>/dev/null)
    [ -n "$names" ] || return 0
    # In a file, for systemd would fill in the variables of a command.
    follow=/run/fiefdom/image-follows
    mkdir -p "${follow%/*}" && cat >"$staging/follow" <<'FIEFDOM_FOLLOW' && move_file "$staging/follow" "$follow" || return 0
image=$1
shift
for name; do
    docker wait "$name"
    while docker inspect --type container "$name"; do sleep 0.3; done
done >/dev/null 2>&1
exec docker image rm "$image" >/dev/null
FIEFDOM_FOLLOW
    # shellcheck disable=SC2086 # names of containers
    systemd-run --quiet --collect /bin/sh "$follow" "$2" $names 2>/dev/null || :
}

take() {
    action=$1
    shift
    case $action in
    record) record "$@" ;;
    forget) grep -vxF "$1$tab$2" "$manifest" | put_manifest || exit 1 ;;
    packages) install_packages "$@" ;;
    account) make_account "$@" ;;
    directory) make_directory "$@" ;;
    lend) lend "$@" ;;
    own) own "$@" ;;
    stage) stage_file "$@" ;;
    stage-like) stage_like "$@" ;;
    check) check_file "$@" ;;
    place) place_file "$1" ;;
    mend) mend_file "$1" ;;
    stage-block) stage_block "$@" ;;
    place-block) place_block "$1" ;;
    hostname)
        printf '%s\n' "$1" >"$staging/hostname" && chmod 0644 "$staging/hostname" &&
            note_placed /etc/hostname "$staging/hostname" &&
            move_file "$staging/hostname" /etc/hostname && hostname "$1" || fail hostname "cannot be set to $1"
        ;;
    sysctl)
        [ -w "$1" ] || fail "$1" "is no kernel setting that can be changed on this host"
        { printf '%s\n' "$2" >"$1"; } 2>"$staging/error" || fail "$1" "cannot be set to $2: $(cat "$staging/error")"
        ;;
    daemon-reload) systemctl daemon-reload || fail systemd "daemon-reload failed" ;;
    reconfigure) reconfigure "$1" ;;
    holds) # what is live now
        said=$(sshd_said "$1" "$1")
        [ -z "$said" ] || fail "$1" "$(printf '%s' "$said" | head -n 1)" "$(printf '%s' "$said" | tail -n +2)"
        ;;
    leave-network) # one that has nothing to do keeps the next boot waiting for two minutes; addresses stay as they are
        ls /etc/systemd/network/*.network >/dev/null 2>&1 || systemctl -q disable systemd-networkd.service 2>/dev/null
        ;;
    unstamp) rm -f "$state/stamps/$1" ;;
    unit) change_unit "$@" ;;
    containers) container_units "$@" ;;
    instances) bring_up "$@" ;;
    offer) bring_into_rotation "$@" ;;
    rest) resting=$* ;; # units that are down meanwhile come up again however it ends: its operator may be gone by then
    upgrade)
        resting=$*
        apt update
        # Without new ones, every new kernel would be held back: its package has another name.
        apt upgrade --with-new-pkgs --no-install-recommends
        ;;
    reload) # one that is down reads its configuration when it starts
        ! systemctl -q is-active "$1" || output=$(systemctl reload "$1" 2>&1) || fail "$1" "reload failed: $output"
        ;;
    unit-back) unit_back "$1" ;;
    erase) erase ;;
    say) printf 'fiefdom-stage\t%s\n' "$1" ;;
    guard) guard "$@" ;;
    keep) keep "$@" ;;
    kept) # a turn that never came to keep anything has nothing to put back
        [ "$(cat "$previous/turn" 2>/dev/null)" = "$1" ] || {
            printf 'fiefdom-restored\t%s\n' "$(hostname)"
            exit 0
        }
        ;;
    settled) rm -f "$previous/unfinished" && undo=no ;;
    restore) put_back "$1" || exit 1 ;;
    let-go) let_go "$@" ;;
    renamed) # what a release that never came to its end has kept of it, it goes back to by the name of now
        [ ! -e "$previous/index" ] ||
            sed -i "s/$tab$1$tab/$tab$2$tab/; /^file$tab.*\/${1%%@*}@\.service\$/d" "$previous/index" || fail "$previous/index" "cannot be written"
        ;;
    remove-unit)
        systemctl -q disable --now "$1" >/dev/null 2>&1
        # One that failed would be listed for ever, without a file.
        systemctl reset-failed "$1" >/dev/null 2>&1
        rm -f "$state/stamps/$1"
        # What is told of the last run of a job that is there no more.
        case $1 in fiefdom-job-*.service) job=${1#fiefdom-job-} && rm -f "$state/jobs/${job%.service}" ;; esac
        ;;
    remove-container)
        docker rm -f "$1" >/dev/null 2>&1
        ! docker inspect --type container "$1" >/dev/null 2>&1 || fail "$1" "the container cannot be removed"
        rm -f "$state/containers/$1"
        ;;
    remove-image) remove_image "$1" ;;
    image-follows) follow_with_image "$@" ;;
    remove-file) remove_file "$1" ;;
    remove-block) remove_block "$1" ;;
    remove-volume) remove_volume "$1" ;;
    remove-account) remove_account "$1" ;;
    remove-directory) rmdir "$1" 2>/dev/null || : ;; # what somebody else put in it stays
    pull) # by its name, or as what a digest names
        [ ! -e /etc/fiefdom/docker/config.json ] || export DOCKER_CONFIG=/etc/fiefdom/docker # the registries' passwords
        output=$(docker pull -q "${2:-$1}" 2>&1) || fail "$1" "cannot be pulled: $output"
        [ $# = 1 ] || output=$(docker tag "$2" "$1" 2>&1) || fail "$1" "cannot be named: $output"
        ;;
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
[ -z "$sick" ] || exit 1
