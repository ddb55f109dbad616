# Managed by Fiefdom: edit the inventory, not this file.
#
# What `container` reads where a container has successors: without a gap, each takes over from the one before.
#
# HEIR is a command in these containers: `HEIR lends` tells whether the running one would hand over, `HEIR healthy` whether
# the successor has taken over; the old one ends by itself. The successor is NAME.next until it has, the old one
# NAME.retiring-1 or so until it has ended; one that failed is kept as NAME.failed to be looked at.
# shellcheck shell=sh disable=SC2034,SC2154 # variables of `container`'s own

exists_container() {
  docker inspect --type container "$1" > /dev/null 2>&1
}

# The containers that were handed over, and still finish their requests or have ended.
retiring() {
  docker ps --all --filter "name=^$name\.retiring-[0-9]+\$" --format '{{.Names}}'
}

# All that is to end with the container.
beside() {
  retiring
  ! exists_container "$name.next" || echo "$name.next"
}

# Whether the running container would hand over: yes, no, or unknown, which must not interrupt it. One of an older image
# does not know the word, and can only be replaced with an interruption.
would_hand_over() {
  status=0
  docker exec "$name" "$heir" lends > /dev/null 2>&1 || status=$?
  case $status in
    0) echo yes ;;
    1 | 2) echo no ;;
    *) echo unknown ;;
  esac
}

# Lets a successor take over from the running container, which stays where that fails. False where it can only be
# interrupted.
leave_to_successor() {
  case $(would_hand_over) in
    yes)
      hand_over || say "$name: $why; the old one stays"
      observe
      return 0
      ;;
    no) return 1 ;;
    *) give_up "$name: it does not answer whether it would hand over" ;;
  esac
}

# Start a successor beside the running container, and let it take over. If that fails, the running one stays what it
# was, and why says why.
hand_over() {
  next=$name.next
  docker rm --force "$next" > /dev/null 2>&1 || :
  why="docker could not create the successor"
  create "$next" || return 1
  why="docker could not start the successor"
  docker start "$next" > /dev/null || {
    set_aside
    return 1
  }
  observe "$next"
  require_not_root "$next"
  await_heir || return 1
  take_names
}

# The successor has the turn once it says that it is healthy; its own time limit is shorter than this one.
await_heir() {
  deadline_s=$(($(now_s) + start_timeout_s))
  until docker exec "$next" "$heir" healthy > /dev/null 2>&1; do
    if ! [ -d "/proc/$pid" ]; then
      why="the successor ended before it had taken over"
      set_aside
      return 1
    fi
    if [ "$(now_s)" -ge "$deadline_s" ]; then
      why="the successor has not taken over within $start_timeout_s s"
      docker kill "$next" > /dev/null || :
      set_aside
      return 1
    fi
    in_background sleep 0.1 || :
  done
}

set_aside() {
  await_docker
  say_why "$name: ${why:-the successor ended}"
  last_words "$next"
  docker rm --force "$name.failed" > /dev/null 2>&1 || :
  docker rename "$next" "$name.failed"
  say "$name: the failed successor is kept as $name.failed"
}

# From here on there is no way back: where a step fails, the next run begins with what is left to do.
take_names() {
  await_docker
  if exists_container "$name"; then
    number=1
    while exists_container "$name.retiring-$number"; do number=$((number + 1)); done
    docker rename "$name" "$name.retiring-$number" || die "$name: docker could not rename the old one"
    remove_when_ended "$name.retiring-$number"
  fi
  docker rename "$next" "$name" || die "$name: docker could not rename the successor"
  observe
  write_stamp
}

remove_when_ended() {
  retiring_pid=$(docker inspect --type container --format '{{.State.Pid}}' "$1" 2> /dev/null) || return 0
  beside_pids="$beside_pids $retiring_pid"
  {
    [ "$retiring_pid" -eq 0 ] || tail --pid="$retiring_pid" --sleep-interval=0.5 -f /dev/null
    # dockerd may be away, or may not have noticed yet.
    until docker rm "$1" > /dev/null 2>&1 || { docker_answers && ! exists_container "$1"; }; do sleep 1; done
  } &
}

# A run that was killed may have left a successor that has the turn, or none of its names; the old containers go when
# they have ended.
finish_what_was_begun() {
  for old in $(retiring); do
    remove_when_ended "$old"
  done
  next=$name.next
  exists_container "$next" || return 0
  observe "$next"
  if [ "$running" = true ]; then
    if await_heir; then take_names; else say "$name: $why"; fi
  elif [ "$(docker inspect --type container --format '{{.State.Status}}' "$next")" = created ]; then
    # It never ran, so there is nothing to look at.
    docker rm --force "$next" > /dev/null
  elif exists_container "$name"; then
    set_aside
  else
    take_names
  fi
}

replace() {
  asked=
  load "$name"
  ticket=$(cat "$stamp_dir/.$name.reload" 2> /dev/null) || ticket=
  verdict=ok
  if ! find_image; then
    verdict="image $image is not on this host"
  else
    observe
    is_as_wanted || case $(would_hand_over) in
      yes)
        say "$name: a successor takes over"
        hand_over || verdict=$why
        ;;
      no)
        say "$name: its image knows no successor; it is interrupted this once"
        adopt_or_create
        await_health
        ;;
      *) verdict="it does not answer whether it would hand over" ;;
    esac
    observe
  fi
  [ "$verdict" = ok ] || say "$name: $verdict; the old one stays"
  printf '%s\n' "$ticket $verdict" > "$stamp_dir/.$name.verdict.new"
  mv "$stamp_dir/.$name.verdict.new" "$stamp_dir/.$name.verdict"
}

on_reload() {
  asked=yes
  [ -z "$child" ] || kill "$child" 2> /dev/null || :
}

# The run may be older than an apply that has just replaced both scripts: a signal and these two files are all they share.
reload() {
  load "$1"
  [ -n "${MAINPID:-}" ] || die "$name: no \$MAINPID to reload"
  ticket=$$-$(now_s)
  mkdir -p "$stamp_dir"
  printf '%s\n' "$ticket" > "$stamp_dir/.$name.reload"
  kill -s HUP "$MAINPID"
  while :; do
    verdict=$(cat "$stamp_dir/.$name.verdict" 2> /dev/null) || verdict=
    case $verdict in
      "$ticket "*)
        rm -f "$stamp_dir/.$name.reload" "$stamp_dir/.$name.verdict"
        [ "$verdict" = "$ticket ok" ] || die "$name: ${verdict#* }; the old one stays"
        return 0
        ;;
    esac
    kill -s 0 "$MAINPID" 2> /dev/null || die "$name: its unit ended; see its journal"
    in_background sleep 0.1 || :
  done
}
