#!/bin/sh
# Managed by Fiefdom: edit the inventory, not this file.
#
# Owns one container for its systemd unit.
#   run NAME [HEIR]  start it, or take over the one that runs; ready when it answers its probe; end when it ends
#   reload NAME      have `run NAME HEIR` replace the running one by a successor without a gap; $MAINPID is that run
#   stop NAME        stop it within its grace period
#   answering NAME...  say of each whether it answers its probe now, or why not; all are asked at once
#   facts NAME       print what it really runs; the environment only as a hash
#
# HEIR is for containers that take over from one another: see `handover`, which only the hosts of such containers carry.
#
# The unit holds no attached `docker run`: a restart of dockerd would cut it off from a container that lives on.
# It waits for the container's process itself, which needs no dockerd.
set -eu

# As containers.py has them.
conf_dir=/etc/fiefdom/containers
stamp_dir=/var/lib/fiefdom/containers
docker_timeout_s=90
handover=/usr/local/lib/fiefdom/handover

docker_socket=/run/docker.sock
state_format='{{.State.Running}} {{.State.Pid}} {{.State.ExitCode}} {{.Image}} {{index .Config.Labels "fiefdom.spec"}}'
newline='
'

child=
pid=0
asked=
beside_pids=

say() {
  printf '%s\n' "$*" >&2
}

# Why it ends: an error in the journal, which tells it from all that was only said, and from the container's own words.
say_why() {
  level=
  [ "${JOURNAL_STREAM:-}" != "$(stat -L -c %d:%i /proc/self/fd/2)" ] || level='<3>'
  printf '%s%s\n' "$level" "$*" >&2
}

die() {
  say_why "$@"
  exit 1
}

# A trap is only taken between commands, or while the shell waits for a child in the background.
in_background() {
  "$@" &
  child=$!
  status=0
  wait "$child" || status=$?
  child=
  return "$status"
}

# A start that fails at once is tried again at once by systemd; the pause keeps a broken one from burning the CPU.
give_up() {
  say_why "$@"
  pause_and_exit
}

pause_and_exit() {
  in_background sleep 2 || :
  exit 1
}

# The offer of a service waits for the starts of all its instances, and several that fail again and again, each in its own
# time, leave it no moment without one. So each says that it need not be waited for. Where the offer does not wait, be it
# that somebody withdrew it, nothing is started.
let_offer_go_on() {
  [ "${role:-}" = instance ] || return 0
  offer=fiefdom-offer-${name%-*}.service
  case $(systemctl list-jobs --no-legend "$offer" 2> /dev/null) in
    *" start waiting"* | *" restart waiting"*)
      # It asks this one as well, which tells it more than one that is gone.
      in_background timeout 5 systemctl --job-mode=ignore-dependencies start "$offer" 2> /dev/null || :
      ;;
  esac
}

# Seconds since boot: the clock may jump while time is being synchronised.
now_s() {
  read -r uptime _ < /proc/uptime
  printf '%s\n' "${uptime%.*}"
}

load() {
  name=$1
  conf=$conf_dir/$name.conf
  [ -r "$conf" ] || give_up "$name: $conf is missing"
  probe_host='' probe_status=200-399 env_sha256='' file_sums=''
  while IFS= read -r line; do
    value=${line#* }
    case ${line%% *} in
      spec) spec=$value ;;
      image) image=$value ;;
      role) role=$value ;;
      version) version=$value ;;
      probe) probe=$value ;;
      probe_host) probe_host=$value ;;
      probe_status) probe_status=$value ;;
      probe_timeout_s) probe_timeout_s=$value ;;
      start_timeout_s) start_timeout_s=$value ;;
      stop_signal) stop_signal=$value ;;
      stop_grace_s) stop_grace_s=$value ;;
      env_sha256) env_sha256=$value ;;
      file_sha256) file_sums=$file_sums$value$newline ;;
    esac
  done < "$conf"
  # As the gateways' checks have it: the service's name, which is the container's without its port.
  [ "$role" != instance ] || [ -n "$probe_host" ] || probe_host=${name%-*}
}

docker_answers() {
  curl --silent --fail --output /dev/null --max-time 5 --unix-socket "$docker_socket" http://docker/_ping
}

await_docker() {
  deadline_s=$(($(now_s) + docker_timeout_s))
  until docker_answers; do
    [ "$(now_s)" -lt "$deadline_s" ] || die "$name: dockerd has not answered for $docker_timeout_s s"
    in_background sleep 0.2 || :
  done
}

# What is between these two marks snapshot.sh has as well, for what it finds is compared with the stamp that is made here.
# @FACTS@
# Two lines for `docker inspect`: what a container really runs, and its environment (which may hold secrets). Only what is
# settled at creation, so neither a restart nor dockerd's version changes it. Another field here is another digest, and
# every container would be replaced for it.
facts_format='{{.Name}}'
for field in \
  .Image \
  .Config.User \
  .Config.Cmd \
  .Config.Entrypoint \
  .Config.StopSignal \
  .Config.StopTimeout \
  '(index .Config.Labels "fiefdom.name")' \
  '(index .Config.Labels "fiefdom.spec")' \
  '(index .Config.Labels "fiefdom.role")' \
  '(index .Config.Labels "fiefdom.version")' \
  .HostConfig.NetworkMode \
  .HostConfig.PortBindings \
  .HostConfig.Binds \
  .HostConfig.Mounts \
  .HostConfig.Tmpfs \
  .HostConfig.Memory \
  .HostConfig.NanoCPUs \
  .HostConfig.PidsLimit \
  .HostConfig.CapAdd \
  .HostConfig.CapDrop \
  .HostConfig.SecurityOpt \
  .HostConfig.Privileged \
  .HostConfig.ReadonlyRootfs \
  .HostConfig.RestartPolicy.Name \
  .HostConfig.Ulimits; do
  facts_format="$facts_format {{json $field}}"
done
facts_format="$facts_format
{{json .Config.Env}}"

# One container's two lines on stdin become its facts: the environment only as a hash.
container_facts() {
  IFS= read -r facts && IFS= read -r env || return 1
  env=$(printf '%s' "$env" | sha256sum)
  printf '%s\nenv %s\n' "$facts" "${env%% *}"
}
# @FACTS@

facts() {
  docker inspect --type container --format "$facts_format" "$1" | container_facts || die "$1: docker shows no facts"
}

# Sets exists, running, pid, exit_code, image_id, spec_label, and stamp: what its file in stamp_dir says while the
# container is as it was created. It is the unit's own container, if no other is named.
observe() {
  exists=no running=false pid=0 exit_code=0 image_id='' spec_label='' stamp=''
  seen=$(docker inspect --type container --format "$state_format
$facts_format" "${1:-$name}" 2> /dev/null) || {
    docker_answers || die "$name: dockerd went away"
    return 0
  }
  exists=yes
  read -r running pid exit_code image_id spec_label << SEEN
$seen
SEEN
  stamp=$(printf '%s\n' "${seen#*"$newline"}" | container_facts | sha256sum)
  stamp="$spec_label ${stamp%% *}"
}

create() {
  created=$1
  set -- --name "$1" --pull never --stop-signal "$stop_signal" --stop-timeout "$stop_grace_s" \
    --label "fiefdom.name=$name" --label "fiefdom.spec=$spec" --label "fiefdom.role=$role" \
    --label "fiefdom.version=$version"
  while IFS= read -r line; do
    case $line in "arg "*) set -- "$@" "${line#* }" ;; esac
  done < "$conf"
  set -- "$@" "$image"
  while IFS= read -r line; do
    case $line in "cmd "*) set -- "$@" "${line#* }" ;; esac
  done < "$conf"
  docker create "$@" > /dev/null || return 1
  # Asked of what was made, for only the host knows an image that it pulled itself.
  user=$(docker inspect --type container --format '{{.Config.User}}' "$created")
  case ${user%%:*} in '' | root | 0*) refuse_root "$created" ;; esac
}

refuse_root() {
  docker rm --force --volumes "$1" > /dev/null
  give_up "$name: $image would run as root: give the service a user, such as 1000:1000, or the Dockerfile a USER"
}

# What a user's name stands for is the image's own word, in its passwd: only the process tells. It is $pid, if it still is.
require_not_root() {
  uids=$(grep '^Uid:' "/proc/$pid/status" 2> /dev/null) || return 0
  # shellcheck disable=SC2086 # real, effective and so on
  for uid in ${uids#Uid:}; do
    [ "$uid" != 0 ] || refuse_root "$1"
  done
}

# Of one that was created just now. Where somebody had edited its environment, it is not what its label says, and one
# word more keeps it from being taken for that when the file is mended.
write_stamp() {
  found=$(sha256sum "$conf_dir/$name.env" 2> /dev/null) || found=
  [ -z "$env_sha256" ] || [ "${found%% *}" = "$env_sha256" ] || stamp="$stamp edited"
  put_stamp
}

# A container has the files that are mounted into it as they are at each of its starts. The unit's sandbox does not let
# root read a file that is another user's alone: what is in such a one only plans tell.
stamp_starting() {
  sums=$(printf %s "$file_sums" | while IFS= read -r sum; do
    [ ! -r "${sum#*  }" ] || printf '%s\n' "$sum"
  done)
  [ -n "$sums" ] || return 0
  printf '%s\n' "$sums" | sha256sum --check --status 2> /dev/null || {
    case $stamp in *" edited") return 0 ;; esac
    stamp="$stamp edited"
    put_stamp
  }
}

put_stamp() {
  mkdir -p "$stamp_dir"
  printf '%s\n' "$stamp" > "$stamp_dir/.$name.new"
  sync -d "$stamp_dir/.$name.new"
  mv "$stamp_dir/.$name.new" "$stamp_dir/$name"
}

# The running container is kept where it is exactly what is wanted: right specification, right image, and nobody
# changed it since it was created.
is_as_wanted() {
  [ "$exists" = yes ] && [ "$spec_label" = "$spec" ] && [ "$image_id" = "$wanted" ] &&
    [ "$(cat "$stamp_dir/$name" 2> /dev/null)" = "$stamp" ]
}

find_image() {
  wanted=$(docker image inspect --format '{{.Id}}' "$image" 2> /dev/null)
}

# What `handover` has other words for. Where it is not read, a container has no successor.
finish_what_was_begun() { :; }
leave_to_successor() { return 1; }
beside() { :; }

# Read whole, before anything else, and never again: an apply may replace both files, and a run goes on as it began. A run
# that starts in the moment between the two has one of them older than the other; should it fail of that, its container
# runs on, and systemd starts a run that has both.
read_handover() {
  [ -r "$handover" ] || return 1
  # shellcheck disable=SC1091 source-path=SCRIPTDIR source=handover.sh
  . "$handover"
}

adopt_or_create() {
  find_image || give_up "$name: image $image is not on this host"
  finish_what_was_begun
  observe
  if [ "$exists" = yes ]; then
    if is_as_wanted; then
      [ "$running" != true ] || {
        require_not_root "$name"
        return 0
      }
    else
      say "$name: replacing a container with another specification"
      [ "$running" != true ] || ! leave_to_successor || return 0
      docker stop "$name" > /dev/null
      docker rm "$name" > /dev/null
      exists=no
    fi
  fi
  if [ "$exists" = no ]; then
    create "$name" || give_up "$name: docker could not create it"
    observe
    write_stamp
  fi
  stamp_starting
  docker start "$name" > /dev/null || give_up "$name: docker could not start it"
  observe
  require_not_root "$name"
}

# Nothing may be sent to a port that does not speak HTTP; the kernel knows whether somebody listens.
listens() {
  grep -q "^ *[0-9]*: [0-9A-F]*:$(printf '%04X' "$1") [0-9A-F]*:0000 0A " /proc/net/tcp
}

# Whether it is healthy; where it is not, $why is for the words "for N s" to follow.
answers() {
  why=
  case $probe in
    '') ;;
    tcp://*) listens "${probe##*:}" || { why='nobody listens'; return 1; } ;;
    connect://*) connects ;;
    command) answers_command ;;
    h2c://*) answers_http "http://${probe#h2c://}" --http2-prior-knowledge ;;
    *) answers_http "$probe" ;;
  esac
}

# As the gateways' checks have it: opened, and closed again. Only bash knows how to, and every Debian has it.
connects() {
  at=${probe#connect://} ended=0
  # shellcheck disable=SC2016 # bash expands it
  timeout "$probe_timeout_s" bash -c ': > "/dev/tcp/$0/$1"' "${at%:*}" "${at##*:}" 2> /dev/null || ended=$?
  case $ended in
    0) return 0 ;;
    124) why="no connection within $probe_timeout_s s" ;;
    *) why='refused the connection' ;;
  esac
  return 1
}

# As the container's user. What goes on when its time is over ends by itself: docker does not end it.
answers_command() {
  set --
  while IFS= read -r line; do
    case $line in "probe_word "*) set -- "$@" "${line#* }" ;; esac
  done < "$conf"
  ended=0
  timeout "$probe_timeout_s" docker exec "$name" "$@" > /dev/null 2>&1 < /dev/null || ended=$?
  case $ended in
    0) return 0 ;;
    124) why="$1 gave no answer within $probe_timeout_s s" ;;
    *) why="$1 ended with $ended" ;;
  esac
  return 1
}

# What is a good answer here is one to the gateways' checks: judged by its status as soon as that is known; path, Host
# header and redirects are as they are.
answers_http() { # url [option]
  ended=0
  code=$(curl --silent --output /dev/null --write-out '%{http_code}' --noproxy '*' --globoff --path-as-is \
    --max-time "$probe_timeout_s" ${probe_host:+--header "Host: $probe_host"} ${2:+"$2"} "$1") || ended=$?
  case $ended:$code in
    *:[1-9]*)
      ! is_wanted_status "$code" || return 0
      why="answered $code, wanted $probe_status"
      ;;
    7:*) why='refused the connection' ;;
    28:*) why="no answer within $probe_timeout_s s" ;;
    52:* | 55:* | 56:*) why='closed the connection without an answer' ;;
    1:* | 8:* | 16:*) why='answered, but not in HTTP' ;;
    *) why="curl ended with $ended" ;;
  esac
  [ -z "${2-}" ] || why="$why, asked in HTTP/2"
  return 1
}

is_wanted_status() {
  left=$probe_status,
  while [ -n "$left" ]; do
    range=${left%%,*} left=${left#*,}
    if [ "$1" -ge "${range%-*}" ] && [ "$1" -le "${range#*-}" ]; then return 0; fi
  done
  return 1
}

# Each line marked, so that nothing a container says reads like words of this script's own.
last_words() {
  docker logs --tail 20 "${1:-$name}" 2>&1 | sed 's/^/| /' >&2 || :
}

await_health() {
  deadline_s=$(($(now_s) + start_timeout_s))
  until answers; do
    if ! [ -d "/proc/$pid" ]; then
      observe
      # dockerd may not have noticed yet, and somebody may have removed it.
      with=
      [ "$exists:$running" != yes:false ] || with=", with exit code $exit_code"
      say_why "$name: ended before it was healthy$with"
      last_words
      let_offer_go_on
      pause_and_exit
    fi
    if [ "$(now_s)" -ge "$deadline_s" ]; then
      say_why "$name: $why, for $start_timeout_s s at $probe"
      last_words
      let_offer_go_on
      docker stop "$name" > /dev/null || :
      pause_and_exit
    fi
    in_background sleep 0.1 || :
  done
}

# --- Its life

# Returns when the container has ended, or when a reload is asked for: even in the moment before the wait.
await_end() {
  tail --pid="$pid" --sleep-interval=0.1 -f /dev/null &
  child=$!
  [ -z "$asked" ] || kill "$child" 2> /dev/null || :
  wait "$child" || :
  child=
}

# Returns the exit code of the container when nobody started it again.
follow() {
  while :; do
    await_end
    if [ -n "$asked" ]; then
      await_docker
      replace
      continue
    fi
    ended=$pid
    await_docker
    observe
    [ "$exists" = yes ] || die "$name: somebody removed it"
    [ "$running" = true ] || return "$exit_code"
    # dockerd may not have noticed yet.
    [ "$pid" != "$ended" ] || in_background sleep 0.1 || :
  done
}

# All at once: each has its own grace period.
stop() {
  if docker_answers; then
    others=$(beside)
    # shellcheck disable=SC2086 # names without blanks
    if docker stop "$name" $others > /dev/null; then
      # shellcheck disable=SC2086
      [ -z "$others" ] || docker rm $others > /dev/null 2>&1 || :
      return 0
    fi
  fi
  for process in "$pid" $beside_pids; do
    stop_process "$process"
  done
}

stop_process() {
  [ "$1" -gt 0 ] && [ -d "/proc/$1" ] || return 0
  say "$name: dockerd does not answer; stopping process $1 without it"
  kill -s "${stop_signal#SIG}" "$1"
  timeout "$stop_grace_s" tail --pid="$1" --sleep-interval=0.1 -f /dev/null || kill -s KILL "$1"
}

stop_and_leave() {
  trap '' TERM INT
  [ -z "$child" ] || kill "$child" 2> /dev/null || :
  stop
  exit 0
}

run() {
  heir=${2:-}
  # To serve without successors is better than not to serve.
  [ -z "$heir" ] || read_handover || {
    say "$handover is missing: no successor can take over from this one"
    heir=
  }
  load "$1"
  trap stop_and_leave TERM INT
  # Where nobody can take over, as ever: it ends.
  [ -z "$heir" ] || trap on_reload HUP
  await_docker
  adopt_or_create
  await_health
  [ -z "${NOTIFY_SOCKET:-}" ] || systemd-notify --ready --status="${probe:-$name} answers"
  follow
}

answering() {
  for asked_for; do
    (
      load "$asked_for"
      if answers; then printf '%s\n' "$name"; else printf '%s: %s\n' "$name" "$why"; fi
    ) &
  done
  wait
}

verb=${1:-}
[ $# -ge 2 ] || die "usage: ${0##*/} run NAME [HEIR], reload|stop|facts NAME, or answering NAME..."
shift
case $verb in
  run) run "$@" ;;
  reload)
    read_handover || die "$handover is missing"
    reload "$1"
    ;;
  stop)
    read_handover || :
    load "$1"
    observe
    [ "$exists" = no ] || stop
    ;;
  answering) answering "$@" ;;
  facts) facts "$1" ;;
  *) die "usage: ${0##*/} run NAME [HEIR], reload|stop|facts NAME, or answering NAME..." ;;
esac
