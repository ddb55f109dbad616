# What sshd makes of a drop-in of ours, by its own word (`sshd -T`): its file may be read late, in part, or not at all.
# steps.sh asks before and after the drop-in is live, snapshot.sh at every look; both have a folder for what is written.
sshd_main=/etc/ssh/sshd_config

# The main file as it would read with CANDIDATE in the place of INSTALLED. A line stays a line, so that numbers hold.
sshd_with() ( # installed candidate
    set -f
    while IFS= read -r line || [ -n "$line" ]; do
        # shellcheck disable=SC2154 # tab, as both readers have it
        IFS=" $tab\"="
        # shellcheck disable=SC2086 # split at blanks, quotes and the sign that may stand after a keyword
        set -- "$1" "$2" $line
        unset IFS
        case ${3:-} in
        [Ii][Nn][Cc][Ll][Uu][Dd][Ee]) sshd_include "$@" ;;
        *) printf '%s\n' "$line" ;;
        esac
    done <"$sshd_main"
)

sshd_include() { # installed candidate include pattern...
    installed=$1 candidate=$2 parts=''
    shift 3
    for pattern; do
        case $pattern in
        '#'*) break ;;
        '') continue ;;
        /*) ;;
        *) pattern=/etc/ssh/$pattern ;;
        esac
        set +f
        # shellcheck disable=SC2086 # a pattern, of which the shell sorts what it finds
        set -- $pattern
        set -f
        [ -e "$1" ] || [ -L "$1" ] || shift
        # shellcheck disable=SC2046,SC2254 # paths; a pattern
        [ -e "$installed" ] || case $installed in
        $pattern) set -- $(printf '%s\n' "$@" "$installed" | sort -u) ;;
        esac
        for part; do
            [ "$part" != "$installed" ] || part=$candidate
            parts="$parts \"$part\""
        done
    done
    printf '%s\n' "${parts:+Include$parts}"
}

# Whoever has a shell: what a Match line says of one is no other's business.
sshd_users() { getent passwd | awk -F: '$7 !~ /\/(nologin|false|sync)$/ && $1 !~ /[, ]/ { print $1 }'; } # `sshd -T -C` could not name others

# What holds for one who comes from where the operator does.
sshd_settings() { # file user option...
    from=${client:-${SSH_CONNECTION:-127.0.0.1}}
    from=${from%% *}
    spec=user=$2,host=$from,addr=$from,laddr=127.0.0.1,lport=22,rdomain=
    set -- "$@" -f "$1" -C "$spec"
    shift 2
    /usr/sbin/sshd -T "$@"
}

# A sentence for each setting of CANDIDATE that is another in the place of INSTALLED, with the line that makes it so.
sshd_judge() { # installed candidate folder
    installed=$1 candidate=$2 folder=$3
    sshd_with "$installed" "$candidate" >"$folder/main"
    # Alone, the drop-in says what is wanted in the words that sshd itself has for it.
    /usr/sbin/sshd -T -f "$candidate" >"$folder/wanted" 2>"$folder/heard" || { sshd_refuses; return; }
    # Without Match lines, all are alike.
    said=$(sshd_judge_user root && for user in $(sshd_users | grep -vxF root); do sshd_judge_user "$user" || break; done)
    [ -z "$said" ] || printf '%s\n' "$said" | sshd_sentences
}

# What differs for a user; true where it may be something else for others.
sshd_judge_user() { # user
    # So it tells of every line that it reads, and calls its LogLevel another.
    if ! sshd_settings "$folder/main" "$1" -ddd >"$folder/found" 2>"$folder/heard"; then
        # Without so many words the last one is why.
        sshd_settings "$folder/main" "$1" >"$folder/found" 2>"$folder/heard"
        sshd_refuses
        return 1
    fi
    sshd_differences "$1" ''
    status=$?
    if [ "$status" = 3 ]; then
        sshd_settings "$folder/main" "$1" >"$folder/found" 2>/dev/null
        sshd_differences "$1" asked
        status=$?
    fi
    return "$status"
}

sshd_refuses() {
    word=$(tr -d '\r' <"$folder/heard" | grep -v ': terminating, ' | tail -n 1)
    case $word in "$folder/main: "*) word="$sshd_main ${word#*: }" ;; esac
    printf 'sshd refuses its configuration: %s\n' "$word"
}

# Lines of setting, found, wanted, whose line it is, user. It ends with 1 where all users are alike, and with 3 and no word
# where LogLevel has to be asked for.
sshd_differences() { # user level
    awk -v user="$1" -v level="$2" -v candidate="$candidate" -v installed="$installed" \
        -v folder="$folder" -v main="$sshd_main" '
        function with(values, value, old, count, i, all) { # sorted, and each once
            count = split(values, old, "\n")
            for (i = 1; i <= count && old[i] "" < value; i++) all = all old[i] "\n"
            all = all value
            if (i <= count && old[i] "" == value) i++
            for (; i <= count; i++) all = all "\n" old[i]
            return all
        }
        function values(file, of, line, key) { # of each setting
            while ((getline line < file) > 0) {
                key = line; sub(/ .*/, "", key); sub(/^[^ ]* ?/, "", line)
                of[key] = with(of[key], line)
            }
            for (key in of) gsub(/\n/, ", ", of[key])
        }
        BEGIN { values(folder "/wanted", wanted); values(folder "/found", found) }
        /Match/ { who = user }
        { gsub(/\r/, "") }
        / setting / {
            again = $2 == "reprocess" # for what holds under its Match lines
            at = again ? main substr($3, 7) : $2; key = tolower(again ? $5 : $4)
            if (index(at, candidate ":") == 1) { read = 1; next }
            if (index(at, folder "/main:") == 1) at = main substr(at, length(folder "/main") + 1)
            # The first wins, but for what stands under a Match line.
            if (!(key in by) || (again && !matched[key])) by[key] = at
            if (again) matched[key] = 1
        }
        END {
            if (!read) { print "\t" installed "\t" main; exit who == "" }
            if (level == "") {
                if ("loglevel" in by) exit 3
                found["loglevel"] = wanted["loglevel"]
            }
            while ((getline line < candidate) > 0) {
                split(line, word, " "); key = tolower(word[1])
                if (line ~ /^[ \t]*(#|$)/ || seen[key]++ || found[key] == wanted[key]) continue
                at = by[key]; sub(/:[0-9]+$/, " line&", at); sub(/ line:/, " line ", at)
                print word[1] "\t" found[key] "\t" wanted[key] "\t" at "\t" who
            }
            exit who == ""
        }' "$folder/heard"
}

sshd_sentences() {
    awk -F '\t' '
        NF == 1 { print; next } # of its own
        $1 == "" { print "sshd does not read it: write `Include /etc/ssh/sshd_config.d/*.conf` as the first line of " $3; exit }
        {
            told = $1 "\t" $2 "\t" $3 "\t" $4
            if (!(told in users)) order[++n] = told
            users[told] = users[told] (users[told] == "" ? "" : ", ") $5
        }
        END {
            for (i = 1; i <= n; i++) {
                split(order[i], part, "\t"); who = users[order[i]]
                print part[1] " is " part[2] (who == "" ? "" : " for " who) ", wanted " part[3] (part[4] == "" ? "" : ": " part[4])
            }
        }'
}

# What each who has a shell can log in by: lines of user, ways, and what sshd forwards for that user.
sshd_ways() { # main-file folder path...; paths of keys that are there or will be
    main=$1 folder=$2
    shift 2
    for user in $(sshd_users); do
        sshd_settings "$main" "$user" >"$folder/found" 2>/dev/null || return
        forwards=$(sed -n 's/^allowtcpforwarding //p' "$folder/found")
        printf '%s\t%s\t%s\n' "$user" "$(sshd_ways_of "$user" "$@")" "$forwards"
    done
}

sshd_in_group() { # user patterns
    for group in $(id -Gn "$1"); do
        for pattern in $2; do
            # shellcheck disable=SC2254
            case $group in $pattern) return 0 ;; esac
        done
    done
    return 1
}

sshd_ways_of() { # user path...
    user=$1 allow='' deny='' allow_groups='' deny_groups='' keys='' ways=''
    shift
    home=$(getent passwd "$user" | cut -d : -f 6)
    while read -r setting value; do
        case $setting in
        allowusers) allow="$allow $value" ;;
        denyusers) deny="$deny $value" ;;
        allowgroups) allow_groups="$allow_groups $value" ;;
        denygroups) deny_groups="$deny_groups $value" ;;
        permitrootlogin) root=$value ;;
        passwordauthentication) password=$value ;;
        kbdinteractiveauthentication) asked=$value ;;
        pubkeyauthentication) pubkey=$value ;;
        authorizedkeysfile) keys=$value ;;
        authorizedkeyscommand) command=$value ;;
        esac
    done <"$folder/found"
    set -f
    for pattern in $deny; do
        # shellcheck disable=SC2254
        case $user in ${pattern%%@*}) return ;; esac
    done
    [ -z "$allow" ] || {
        allowed=no
        for pattern in $allow; do
            # shellcheck disable=SC2254
            case $user in ${pattern%%@*}) allowed=yes ;; esac
        done
        [ "$allowed" = yes ] || return
    }
    ! sshd_in_group "$user" "$deny_groups" || return
    [ -z "$allow_groups" ] || sshd_in_group "$user" "$allow_groups" || return
    [ "$user:${root:-}" != root:no ] || return
    case $password$asked:$(getent shadow "$user" | cut -d : -f 2) in
    *yes*:'$'*) case $user:${root:-} in root:without-password | root:prohibit-password | root:forced*) ;; *) ways=password ;; esac ;;
    esac
    [ "${pubkey:-}" = yes ] || { printf %s "$ways"; return; }
    held=no
    [ "${command:-none}" = none ] || held=yes
    for path in $keys; do
        path=$(printf '%s' "$path" | sed "s|%u|$user|g; s|%h|$home|g; s|%%|%|g")
        case $path in /*) ;; *) path=$home/$path ;; esac
        ! { grep -qs '^[^#]' "$path" || printf '%s\n' "$@" | grep -qxF "$path"; } || held=yes
    done
    [ "$held" = no ] || ways=${ways:+$ways and }key
    printf %s "$ways"
}
