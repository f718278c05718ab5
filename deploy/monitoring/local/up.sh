#!/usr/bin/env bash
# Prometheus, and Grafana where it is installed, beside a live run: up.sh RUN_DIR | http://HOST:PORT
# Owns two child processes and one folder under TMPDIR, which go away at Ctrl-C; listens on 127.0.0.1 alone.
# PROMETHEUS_PORT (9090) and GRAFANA_PORT (3000) say where; MONITORING_DATA=DIR keeps the data there. Exit 2: bad input, one sentence says why.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}
prometheus_port=${PROMETHEUS_PORT:-9090}
grafana_port=${GRAFANA_PORT:-3000}

refuse() {
  echo "up.sh: $1" >&2
  exit 2
}

# The controller's address, from a run folder's run.json or as it was given.
service_of() {
  case $1 in
  http://*) echo "${1%/}" ;;
  *)
    [[ -d $1 ]] || refuse "$1 is no folder; give the one that \`firesteel run\` printed, or http://HOST:PORT"
    [[ -f $1/run.json ]] || refuse "$1 is no live run: it has no run.json"
    "$python" -c 'import json, sys; print(json.load(open(sys.argv[1]))["service"])' "$1/run.json" 2>/dev/null || refuse "$1/run.json names no address"
    ;;
  esac
}

# For YAML: an address may have any character.
quoted() { printf "'%s'" "${1//"'"/"''"}"; }

answers() {
  "$python" - "$1" <<'PY' 2>/dev/null
import sys, urllib.request
urllib.request.build_opener(urllib.request.ProxyHandler({})).open(sys.argv[1], timeout=5).read()
PY
}

is_free() {
  "$python" -c 'import socket, sys; socket.create_server(("127.0.0.1", int(sys.argv[1]))).close()' "$1" 2>/dev/null
}

# Wait until a child answers; its log, and exit 1, where it ends or a minute is not enough.
wait_for() {
  local name=$1 pid=$2 url=$3 log=$4
  for _ in $(seq 300); do
    if answers "$url"; then return; fi
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.2
  done
  echo "up.sh: $name did not start; the end of its log:" >&2
  tail -n 15 "$log" >&2
  exit 1
}

children=""
finish() {
  trap - EXIT INT TERM
  for child in $children; do kill "$child" 2>/dev/null || true; done
  for child in $children; do wait "$child" 2>/dev/null || true; done
  [[ -n ${MONITORING_DATA:-} ]] || rm -rf "$data"
}

start_prometheus() {
  local settings
  cp "$here/../firesteel.rules.yml" "$data/" # in its configuration a folder's name would be a pattern
  settings=$(<"$here/prometheus.yml")
  settings=${settings//http:\/\/127.0.0.1:9400\/sd/"$(quoted "$service/sd")"}
  echo "${settings//..\/firesteel.rules.yml/firesteel.rules.yml}" >"$data/prometheus.yml"
  prometheus --config.file="$data/prometheus.yml" --storage.tsdb.path="$data/prometheus" --web.listen-address="127.0.0.1:$prometheus_port" \
    >"$data/prometheus.log" 2>&1 &
  children="$children $!"
  wait_for prometheus $! "http://127.0.0.1:$prometheus_port/-/ready" "$data/prometheus.log"
  echo "Prometheus: http://127.0.0.1:$prometheus_port scrapes the run at $service"
}

start_grafana() {
  local home=${GF_PATHS_HOME:-/usr/share/grafana}
  mkdir -p "$data/dashboards"
  cp "$here/../firesteel.json" "$data/dashboards/"
  FIRESTEEL_PROMETHEUS="http://127.0.0.1:$prometheus_port" FIRESTEEL_DASHBOARDS="$data/dashboards" \
    GF_SERVER_HTTP_ADDR=127.0.0.1 GF_SERVER_HTTP_PORT="$grafana_port" GF_PATHS_DATA="$data/grafana" GF_PATHS_LOGS="$data/grafana" \
    GF_PATHS_PROVISIONING="$here/grafana/provisioning" GF_AUTH_ANONYMOUS_ENABLED=true GF_ANALYTICS_REPORTING_ENABLED=false \
    GF_ANALYTICS_CHECK_FOR_UPDATES=false GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH="$data/dashboards/firesteel.json" \
    $grafana --homepath "$home" >"$data/grafana.log" 2>&1 &
  children="$children $!"
  wait_for grafana $! "http://127.0.0.1:$grafana_port/api/health" "$data/grafana.log"
  echo "Grafana: http://127.0.0.1:$grafana_port/d/firesteel"
}

[[ $# -eq 1 ]] || refuse "usage: up.sh RUN_DIR | http://HOST:PORT"
service=$(service_of "$1")
command -v prometheus >/dev/null || refuse "prometheus is not installed (Debian and Ubuntu: apt install prometheus)"
answers "$service/sd" || refuse "no run answers at $service; is it still running?"
is_free "$prometheus_port" || refuse "port $prometheus_port is in use; set PROMETHEUS_PORT to another one"
grafana=""
if command -v grafana >/dev/null; then grafana="grafana server"; elif command -v grafana-server >/dev/null; then grafana=grafana-server; fi
[[ -z $grafana ]] || is_free "$grafana_port" || refuse "port $grafana_port is in use; set GRAFANA_PORT to another one"

data=${MONITORING_DATA:-$(mktemp -d "${TMPDIR:-/tmp}/firesteel-monitoring.XXXXXX")}
mkdir -p "$data"
trap finish EXIT
trap 'exit 0' INT TERM
start_prometheus
if [[ -n $grafana ]]; then
  start_grafana
else
  echo "Grafana is not installed: import deploy/monitoring/firesteel.json into one, with that Prometheus as its data source"
fi
echo "Ctrl-C ends it; what was scraped can be looked at after the run has ended, too"
while true; do
  for child in $children; do
    kill -0 "$child" 2>/dev/null || { echo "up.sh: a process ended by itself:" >&2; tail -n 15 "$data"/*.log >&2; exit 1; }
  done
  sleep 1 &
  wait $! # a signal is heard at once
done
