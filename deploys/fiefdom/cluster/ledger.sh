# The lock and the audit of a cluster on one of its gateways: does one thing, then tells what is there.
#   show DIR COUNT        nothing; tells the last COUNT lines of the audit as well
#   take DIR TOKEN SEEN   puts the line on standard input in the lock's place, if the lock is still TOKEN's, "-" for none,
#                         and, where SEEN is not "-", has not moved since
#   beat DIR TOKEN        a sign of life, if the lock is TOKEN's
#   release DIR TOKEN SEEN  removes the lock, if it is TOKEN's and, where SEEN is not "-", has not moved since
#   append DIR            adds the line on standard input to the audit
# ledger.py writes the lines and reads the answer, locking.py decides; nothing here does, and no content becomes a command.
# shellcheck disable=SC2015,SC2174 # `fail` ends the script, and only the last folder is ours to close
set -u
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
verb=$1 folder=$2 token=${3:--} seen=${4:--}
lock=$folder/lock audit=$folder/audit.jsonl owner=
# The gateway's container shows lock and audit, and may read them: account.UID. Where it has no such number, it does not.
reader=65530
umask 077

fail() {
    printf '%s\n' "$1" >&2
    exit 1
}

# Its line less what this gateway's clock added, so that whoever wrote it knows the token before an answer comes.
look() { # sets `owner`
    owner=-
    [ -e "$lock" ] || return 0
    owner=$(sed '1s/^{"since":"[^"]*",/{/' "$lock" 2>/dev/null | sha256sum)
    owner=${owner%% *}
}

seen_of_lock() { stat -c %.Y "$lock" 2>/dev/null || echo -; }

is_expected() { look && [ "$owner" = "$token" ] && { [ "$seen" = - ] || [ "$(seen_of_lock)" = "$seen" ]; }; }

# Time comes from this host's clock: operators' clocks differ.
stamped() { # key
    line=$(cat)
    printf '{"%s":"%s",%s\n' "$1" "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "${line#?}"
}

# Nobody else comes through the folder, and the guard is not for reading: who opens it can hold it.
readable() { # path mode
    chgrp "$reader" "$1" 2>/dev/null && chmod "$2" "$1" || :
}

take() {
    is_expected || return 0
    owner=
    stamped since >"$lock.new" && readable "$lock.new" 0640 && sync -d "$lock.new" && mv -fT "$lock.new" "$lock" && sync "$folder" ||
        fail "$lock cannot be written"
}

beat() {
    look
    [ "$owner" != "$token" ] || touch "$lock"
}

release() {
    is_expected || return 0
    rm -f "$lock" || fail "$lock cannot be removed"
}

# dd hands the whole line to one write and waits until it is on disk. No chattr +a: it would keep root from removing
# Fiefdom, and keeps nobody else from anything.
append() {
    {
        # A full disk or a power cut may have torn the last line.
        [ -z "$(tail -c 1 "$audit" 2>/dev/null)" ] || echo
        stamped at
    } | dd status=none bs=1M iflag=fullblock oflag=append conv=notrunc,fsync of="$audit" ||
        fail "$audit cannot be written"
    readable "$audit" 0640
}

# The time comes last: an answer without it broke off.
tell() {
    if [ -e "$lock" ]; then
        [ "${owner:--}" != - ] || look
        line=
        IFS= read -r line 2>/dev/null <"$lock"
        # What is as it should be starts no program.
        case ${#line},$line in
        [0-9][0-9][0-9][0-9]* | *[!\ -~]*) line=$(head -c 4096 "$lock" 2>/dev/null | sed 's/[^ -~]/?/g; q') ;;
        esac
        printf 'lock\t%s\t%s\t%s\n' "$owner" "$(seen_of_lock)" "$line"
    fi
    read -r up _ </proc/uptime
    printf 'now\t%s\t%s\n' "$(date +%s.%N)" "${up%%.*}"
}

case $verb in
show)
    [ "$token" = 0 ] || [ ! -e "$audit" ] ||
        tail -c 4194304 "$audit" | tail -n "$token" | sed 's/[^ -~]/?/g; s/^/entry\t/'
    ;;
take | beat | release | append)
    [ -d "$folder" ] || { (umask 022 && mkdir -p "${folder%/*}") && mkdir -p -m 0700 "$folder" && readable "$folder" 0750; } || fail "$folder cannot be created"
    exec 9>"$folder/guard" && flock -w 5 9 || fail "$folder/guard: another command has held it for 5 s"
    "$verb"
    ;;
*) fail "$verb: no such verb" ;;
esac
tell
