# Managed by Fiefdom: edit the inventory, not this file.
#
# One command to its end, in a container of its own that is made as an instance is: what `job` reads, and what `fiefdom run`
# and release commands are sent with. It wants `name`, of the container, and `limit_s`, 0 for no limit; and `fail`, which
# says why nothing began and ends.
# shellcheck shell=sh disable=SC2034,SC2154 # variables of who reads it

conf_dir=/etc/fiefdom/containers
docker_s=60
restart_s=120 # for a dockerd that does not answer

# Sets conf: that of an instance which runs, else that of any. A service may be called as another one with a number.
find_conf() { # service
  conf=
  for each in "$conf_dir/$1"-*.conf; do
    port=${each#"$conf_dir/$1-"}
    port=${port%.conf}
    case $port in '' | *[!0-9]*) continue ;; esac
    [ -n "$conf" ] || conf=$each
    [ "$(timeout "$docker_s" docker inspect --type container --format '{{.State.Running}}' "$1-$port" 2> /dev/null)" != true ] || {
      conf=$each
      break
    }
  done
  [ -n "$conf" ] || fail "no instance of $1 is set up here"
}

of_conf() { sed -n "s/^$1 //p" "$conf"; } # key

# Of what runs, the image is what it was made from, whatever has its name by now. Sets image and grace_s.
find_image() { # instance that runs; empty for none
  image=
  [ -z "$1" ] || image=$(timeout "$docker_s" docker inspect --type container --format '{{.Image}}' "$1" 2> /dev/null) || image=
  [ -n "$image" ] || image=$(of_conf image)
  found=$(timeout "$docker_s" docker image inspect --format '{{.Id}} {{.Config.User}}' "$image" 2>&1) || {
    case $found in *"o such image"*) fail "the image $image is not here" ;; esac
    fail "docker does not answer: $found"
  }
  grep -q '^arg --user=' "$conf" || require_user "${found#* }"
  grace_s=$(of_conf stop_grace_s)
  grace_s=${grace_s:-10}
}

require_user() { # as the image has it
  case ${1%%:*} in
    '' | root | 0*) fail "$image would run as root: give the service a user, such as 1000:1000, or the Dockerfile a USER" ;;
  esac
}

# In place of a shell that was started for it.
launch() { # label word...
  label=$1 first=$2
  shift 2
  set -- --entrypoint "$first" "$image" "$@"
  while IFS= read -r line; do
    case $line in
      # A port is an instance's, a label is what a plan knows it by.
      "arg --publish="* | "arg --label="*) ;;
      "arg "*) set -- "${line#arg }" "$@" ;;
      "stop_signal "*) set -- --stop-signal "${line#* }" "$@" ;;
      "stop_grace_s "*) set -- --stop-timeout "${line#* }" "$@" ;;
      "release "*) set -- --label "fiefdom.release=${line#* }" "$@" ;;
    esac
  done < "$conf"
  exec docker run --rm --name "$name" --pull never --label "$label" "$@"
}

# What a user's name stands for is the image's own word: only the process tells.
watch_user() {
  while sleep 0.1; do
    pid=$(docker inspect --type container --format '{{.State.Pid}}' "$name") || continue
    [ "$pid" -gt 0 ] || continue
    ! grep -qE '^Uid:.*[[:space:]]0([[:space:]]|$)' "/proc/$pid/status" || kill -s USR2 $$
    return
  done
}

# In short sleeps, for one that is left behind would go on to its end.
watch_time() {
  until [ "$limit_s" = 0 ]; do
    sleep 1
    limit_s=$((limit_s - 1))
  done
  kill -s USR1 $$
}

# Of one that is made and not started yet, Docker says that it is stopped.
# shellcheck disable=SC2329 # by a trap
halt() {
  while kill -0 "$command"; do
    stop
    sleep 0.3
  done
}

stop() { timeout $((grace_s + docker_s)) docker stop "$name"; }

# Sets state: how a container is; empty where there is none. Fails where Docker does not say.
look() { # container
  state=$(timeout "$docker_s" docker inspect --type container --format '{{.State.Status}}' "$1" 2>&1) && return
  case $state in *"o such container"*) state='' ;; *) return 1 ;; esac
}

# Docker's client may end and the container not: where its outputs broke, or dockerd began anew. Sets left: how it was.
clear_away() {
  left='' until_s=$(($(now_s) + restart_s))
  while [ "$(now_s)" -lt "$until_s" ]; do
    if ! look "$name"; then
      left=${left:-unknown}
    elif [ -z "$state" ]; then
      return 0
    elif [ "$state" != removing ]; then
      left=${left:-$state}
      ! { stop && timeout "$docker_s" docker rm --force "$name"; } > /dev/null 2>&1 ||
        until_s=$(($(now_s) + restart_s)) # its grace is not Docker's
    fi
    sleep 0.3
  done
  return 1
}

now_s() { cut -d . -f 1 /proc/uptime; }

# What else may end it: adds to watchers.
watch_more() { :; }

# Sets code, as the command ended; late, whether its time was over; ended_by, where somebody ended it before that; and
# gone, whether its container is.
see_through() { # label word...
  late=no root=no ended_by='' command=0 code=0
  trap 'ended_by=signal; (halt) >/dev/null 2>&1 &' HUP INT TERM
  trap 'late=yes; (halt) >/dev/null 2>&1 &' USR1
  trap 'root=yes; (halt) >/dev/null 2>&1 &' USR2
  launch "$@" 3<&- &
  command=$!
  # In parentheses, without which a shell would keep its own outputs open in them, and sshd wait for their end.
  (watch_user) > /dev/null 2>&1 3<&- &
  watchers=$!
  watch_more
  [ "$limit_s" = 0 ] || {
    (watch_time) > /dev/null 2>&1 3<&- &
    watchers="$watchers $!"
  }
  exec 3<&-
  # A signal ends a wait; the command itself may go on for as long as its grace.
  while :; do
    code=0
    wait "$command" || code=$?
    kill -0 "$command" 2> /dev/null || break
  done
  trap '' HUP INT TERM PIPE USR1 USR2
  # A shell that has just begun may lose any other signal.
  # shellcheck disable=SC2086 # several
  kill -s KILL $watchers 2> /dev/null
  [ "$root" = no ] || {
    echo "fiefdom: its process is root's; give the service a user, such as 1000:1000, or the Dockerfile a USER" >&2
    code=1
  }
  # With --rm it is gone, unless the client ended before it.
  gone=yes broken='its container is gone'
  clear_away || gone=no left=${left:-unknown} broken="the container $name may be at work still"
  [ -z "$left" ] || {
    echo "fiefdom: the connection to Docker broke off; $broken" >&2
    [ "$code" != 0 ] || code=1
  }
  [ "$late" = no ] || code=124
}
