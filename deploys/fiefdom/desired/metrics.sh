#!/bin/sh
# Managed by Fiefdom: edit the inventory, not this file.
#
# Tells the node exporter what this host knows of its containers, offers, units and jobs: one file in Prometheus' text
# format, whole or not at all. What cannot be asked is left out, not told as 0.
#
# Its cost is one `docker version`, one `docker inspect`, one `systemctl show`, and one request to each container's health
# path; the rest is read from files.
set -u
export LC_ALL=C

conf_dir=/etc/fiefdom/containers
offers_dir=/etc/fiefdom/offers
made_dir=/run/fiefdom/offers
runs_dir=/var/lib/fiefdom/jobs
address_conf=/etc/fiefdom/address.conf
container=/usr/local/lib/fiefdom/container
out_dir=/run/fiefdom-metrics
proc=/proc
cgroups=/sys/fs/cgroup
limit_s=20

# Name, kind and help of all that is told.
families() {
  cat << 'FAMILIES'
fiefdom_address_held gauge Whether this gateway has the address of all gateways.
fiefdom_container_cpu_seconds_total counter CPU time of a container since it started.
fiefdom_container_healthy gauge Whether a container answers its health check on the host.
fiefdom_container_info gauge A container as it runs, with its version.
fiefdom_container_memory_bytes gauge Memory of a container, less what the kernel can take back from its files.
fiefdom_container_memory_limit_bytes gauge Memory that a container may have.
fiefdom_container_oom_killed gauge Whether the last end of a container was its memory limit.
fiefdom_container_restarts_total counter Starts of a container that nobody asked for, since its unit was last started.
fiefdom_container_running gauge Whether a container runs.
fiefdom_docker_up gauge Whether dockerd answers.
fiefdom_job_failed gauge Whether the last run of a job on this host failed.
fiefdom_job_last_run_timestamp_seconds gauge When a job last began on this host.
fiefdom_job_running gauge Whether a job runs on this host.
fiefdom_offer_made gauge Whether this host offers a service to the gateways.
fiefdom_unit_active gauge Whether a unit of Fiefdom's is active.
fiefdom_unit_failed gauge Whether a unit of Fiefdom's has failed.
FAMILIES
}

names_in() { # folder ending
  for path in "$1"/*"$2"; do
    [ ! -e "$path" ] || { name=${path##*/} && printf '%s\n' "${name%"$2"}"; }
  done
}

labels_of() { # container role
  case $2 in
    instance) labels="container=\"$1\",kind=\"$2\",service=\"${1%-*}\"" ;;
    *) labels="container=\"$1\",kind=\"$2\",service=\"\"" ;;
  esac
}

role_of() { # container
  sed -n '/^role /{s///p;q;}' "$conf_dir/$1.conf"
}

# --- Containers

docker_part() {
  # shellcheck disable=SC2046 # names without blanks
  set -- $(names_in "$conf_dir" .conf)
  format='{{.Name}} {{.State.Running}} {{.State.Pid}} {{.State.OOMKilled}} {{.HostConfig.Memory}}'
  format="$format {{index .Config.Labels \"fiefdom.version\"}}"
  timeout -k 1 "$limit_s" docker version --format ' ' > /dev/null 2>&1 || {
    echo 'fiefdom_docker_up 0'
    return
  }
  echo 'fiefdom_docker_up 1'
  [ $# -gt 0 ] || return
  # One that is not there is no error: it is told as one that does not run.
  ended=0
  found=$(timeout -k 1 "$limit_s" docker inspect --type container --format "$format" "$@" 2> /dev/null) || ended=$?
  for each; do
    line=$(printf '%s\n' "$found" | grep -m 1 "^/$each ") || {
      [ "$ended" -lt 124 ] || continue # nobody said that it is not there
      line="/$each false 0 false 0 "
    }
    tell_container "$each" "$line"
  done
  # Who was not asked in time, or is no more, is not told of.
  answering=$(timeout -k 1 "$limit_s" "$container" answering "$@" 2> /dev/null) || :
  for each; do
    case "
$answering
" in
      *"
$each
"*) healthy=1 ;;
      *"
$each: "*) healthy=0 ;;
      *) continue ;;
    esac
    labels_of "$each" "$(role_of "$each")"
    echo "fiefdom_container_healthy{$labels} $healthy"
  done
}

tell_container() { # name line
  read -r _ running pid oom memory version << LINE
$2
LINE
  labels_of "$1" "$(role_of "$1")"
  echo "fiefdom_container_running{$labels} $(is "$running" true)"
  echo "fiefdom_container_oom_killed{$labels} $(is "$oom" true)"
  # A label of the container's, of which one that the exporter cannot read would cost all that is told here.
  case $version in
    '' | *[!A-Za-z0-9_.+-]*) ;;
    *) echo "fiefdom_container_info{$labels,version=\"$version\"} 1" ;;
  esac
  [ "$memory" = 0 ] || echo "fiefdom_container_memory_limit_bytes{$labels} $memory"
  [ "$running" != true ] || tell_cgroup "$pid"
}

is() { # word wanted
  if [ "$1" = "$2" ]; then echo 1; else echo 0; fi
}

# Also where the kernel still has a hierarchy for each controller.
tell_cgroup() { # pid
  group=$(group_of "$1" '')
  if [ -e "$cgroups$group/memory.stat" ]; then
    memory_in="$cgroups$group" now=memory.current taken=inactive_file
    used_us=$(sed -n 's/^usage_usec //p' "$cgroups$group/cpu.stat" 2> /dev/null)
  else
    memory_in="$cgroups/memory$(group_of "$1" memory)" now=memory.usage_in_bytes taken=total_inactive_file
    used_us=$(sed 's/...$//' "$cgroups/cpuacct$(group_of "$1" cpuacct)/cpuacct.usage" 2> /dev/null)
  fi
  memory=$(cat "$memory_in/$now" 2> /dev/null)
  free=$(sed -n "s/^$taken //p" "$memory_in/memory.stat" 2> /dev/null)
  [ -z "$memory" ] || echo "fiefdom_container_memory_bytes{$labels} $((memory - ${free:-0}))"
  [ -z "$used_us" ] ||
    printf '%s %d.%06d\n' "fiefdom_container_cpu_seconds_total{$labels}" $((used_us / 1000000)) $((used_us % 1000000))
}

group_of() { # pid controller; none is the one hierarchy of all
  if [ -n "$2" ]; then what="[^:]*\b$2\b[^:]*"; else what=; fi
  sed -n "s/^[0-9]*:$what:\(\/.*\)/\1/p" "$proc/$1/cgroup" 2> /dev/null | head -n 1
}

# --- Units, offers, jobs, and the address

units_part() {
  timeout -k 1 "$limit_s" systemctl show -p Id -p ActiveState -p NRestarts -- 'fiefdom-*.service' 'fiefdom-*.timer' docker.service keepalived.service 2> /dev/null |
    awk -F = '
      $1 == "Id" { id = $2 }
      $1 == "ActiveState" { state = $2 }
      $1 == "NRestarts" { restarts = $2 }
      $0 == "" { tell() }
      END { tell() }
      function tell(  name, role, service) {
        if (id == "") return
        # What runs now and then is inactive in between, and that is no news.
        if (id !~ /^fiefdom-(job-.*|metrics)\.service$/)
          print "fiefdom_unit_active{unit=\"" id "\"} " (state == "active" || state == "reloading" ? 1 : 0)
        print "fiefdom_unit_failed{unit=\"" id "\"} " (state == "failed" ? 1 : 0)
        if (id ~ /^fiefdom-.*@[0-9]+\.service$/) {
          service = substr(id, 9)
          name = service
          sub(/@.*/, "", service)
          sub(/\.service$/, "", name)
          sub(/@/, "-", name)
          role = "instance"
        } else if (id ~ /^fiefdom-(gateway|serf-agent)\.service$/) {
          name = id
          sub(/^fiefdom-/, "", name)
          sub(/\.service$/, "", name)
          role = name == "gateway" ? "gateway" : "agent"
          service = ""
        }
        if (name != "" && restarts != "")
          print "fiefdom_container_restarts_total{container=\"" name "\",kind=\"" role "\",service=\"" service "\"} " restarts
        id = state = restarts = ""
      }'
}

offers_part() {
  for service in $(names_in "$offers_dir" .conf); do
    made=0
    [ ! -e "$made_dir/$service.offer" ] || made=1
    echo "fiefdom_offer_made{service=\"$service\"} $made"
  done
}

# A line of a job: when it began, when it ended or a dash, and how; of one that runs, how the run before did.
jobs_part() {
  for path in "$runs_dir"/*; do
    [ -f "$path" ] || continue
    read -r began ended outcome < "$path" || continue
    job=${path##*/}
    labels="service=\"${job%%.*}\",job_name=\"${job#*.}\""
    failed=1
    case $outcome in 0 | -) failed=0 ;; esac
    echo "fiefdom_job_failed{$labels} $failed"
    echo "fiefdom_job_running{$labels} $(is "$ended" -)"
    echo "fiefdom_job_last_run_timestamp_seconds{$labels} $began"
  done
}

address_part() {
  address=$(sed -n 's/^address //p' "$address_conf" 2> /dev/null)
  [ -n "$address" ] || return 0
  held=0
  # It stands on every gateway's loopback, so that is no sign.
  ! ip -o -4 address show to "$address/32" 2> /dev/null | grep -qv '^[0-9]*: lo ' || held=1
  echo "fiefdom_address_held $held"
}

# --- All of it

told() {
  docker_part
  units_part
  offers_part
  jobs_part
  address_part
}

# Samples of one metric stand together, below what it is.
{
  families
  told | sort
} | awk '
  NF > 2 && !/[{]/ { name = $1; kind[name] = $2; sub(/^[^ ]* [^ ]* /, ""); help[name] = $0; next }
  {
    name = $1
    sub(/[{].*/, "", name)
    if (name != before) print "# HELP " name " " help[name] "\n# TYPE " name " " kind[name]
    before = name
    print
  }' > "$out_dir/.fiefdom.new" && chmod 0644 "$out_dir/.fiefdom.new" && mv "$out_dir/.fiefdom.new" "$out_dir/fiefdom.prom"
